"""What ``kdtool generate`` made, or would ask, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

from kdtool.terminal import words


def show(found: Mapping[str, Any], out: str, stream: TextIO) -> None:
    """Print a card, or what a dry run found.

    Args:
        found: what ``kdtool.generate`` returns.
        out: the set's folder.
        stream: where to.
    """
    for line in _card(found, out) if "samples" in found else _dry(found):
        print(line, file=stream)


def _dry(found: Mapping[str, Any]) -> list[str]:
    requests, tokens, cost = found["requests"], found["tokens"], found["cost"]
    price = f", for at most {cost['at_most']:.4f}" if cost else ""
    return [
        *(f"{words.clean(role)}: {line}" for role, content in found["first"]
          for line in (words.clean(each) for each in content.splitlines())),
        f"{requests['wanted']:,} requests, {requests['there']:,} are answered; the rest read about "
        f"{tokens['prompt']:,} tokens and write at most {tokens['completion']:,}{price}",
    ]  # fmt: skip


def _card(found: Mapping[str, Any], out: str) -> list[str]:
    requests, tokens, cost = found["requests"], found["tokens"], found["cost"]
    price = f", {cost['sum']:.4f} in all" if cost else ""
    kinds = ", ".join(f"{count:,} {words.clean(kind)}" for kind, count in found["samples"]["kinds"].items())
    return [
        f"answers: {requests['answered']:,} of {requests['wanted']:,}, {requests['refused']:,} refused; "
        f"{tokens['prompt']:,} tokens read, {tokens['completion']:,} written{price}",
        *(f"wave {wave['wave']}: {wave['new']} new tasks, {wave['kept']} in all" for wave in found["waves"]),
        *(f"left out by {each['name']}: {each['before'] - each['after']:,} of {each['before']:,} ({each['about']})"
          for each in found["filters"] if each["before"] > each["after"]),
        f"{found['samples']['count']:,} samples{f' ({kinds})' if kinds else ''} in {words.clean(out)}",
    ]  # fmt: skip
