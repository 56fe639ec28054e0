"""The data card of a generated set: what it is made of, for machines and for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdtool.system.disk import write_whole

CARD, README = "card.json", "README.md"

LICENCE = (
    "What a teacher writes falls under its own terms, and under those of the questions. Many providers do not allow "
    "other models to be trained on their output: check before you train on this or hand it on."
)


def write_card(folder: Path, card: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> None:
    """Write a card beside its set.

    Args:
        folder: the set's.
        card: what ``kdtool.generate`` returns.
        samples: some of the set, to be shown.

    Raises:
        RunError: it cannot be written.
    """
    write_whole(folder / CARD, json.dumps(card, indent=2, ensure_ascii=False) + "\n")
    write_whole(folder / README, "\n".join(_lines(card, samples)) + "\n")


def _lines(card: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> list[str]:
    style, requests, tokens = card["style"], card["requests"], card["tokens"]
    kinds = ", ".join(f"{count:,} {_cell(kind)}" for kind, count in card["samples"]["kinds"].items()) or "none"
    cost = f", {card['cost']['sum']:.4f} at {card['cost']['price']} a million" if card["cost"] else ""
    estimated = "" if tokens["counted"] else " (in part estimated: the teacher does not count)"
    lines = [
        "# A generated set",
        "",
        f"Made by kdtool {card['kdtool']}; `{CARD}` holds all of this and more.",
        "",
        "| | |",
        "| --- | --- |",
        f"| teacher | {_cell(card['teacher']['name'])} |",
        f"| it calls itself | {_cell(', '.join(card['teacher']['reported'])) or '-'} |",
        f"| style | {_cell(style['name'])}: {_cell(style['about'])} |",
        f"| source | {_cell(style['paper'])} |",
        f"| questions | {_cell(card['data']['name'])}, {card['data']['rows']:,}, {card['samples_each']} answers each |",
        f"| sampling | {_cell(json.dumps(card['sampling']))} |",
        f"| answers | {requests['answered']:,} of {requests['wanted']:,}, {requests['refused']:,} refused, "
        f"{requests['failed']:,} failed |",
        f"| tokens | {tokens['prompt']:,} read, {tokens['completion']:,} written{estimated}{cost} |",
        f"| samples | {card['samples']['count']:,}: {kinds} |",
        "",
        "## Filters",
        "",
        "| filter | left out are answers that | before | after |",
        "| --- | --- | --- | --- |",
        *(f"| {each['name']} | {_cell(each['about'])} | {each['before']:,} | {each['after']:,} |"
          for each in card["filters"]),
        "",
        "## Licence",
        "",
        card["licence"],
    ]  # fmt: skip
    if samples:
        lines += ["", "## Samples", ""]
        lines += [f"    {json.dumps(sample, ensure_ascii=False)[:1000]}" for sample in samples]
    return lines


def _cell(text: Any) -> str:
    """Return text as a cell of a table has it: on one line, without what would end the cell or be markup."""
    plain = " ".join(str(text).split())
    return "".join(f"\\{char}" if char in r"\|<>[]`*_" else char for char in plain)
