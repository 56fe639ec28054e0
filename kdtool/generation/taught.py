"""A generated set: its folder, and what is written there."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdtool.errors import InputError, first_line
from kdtool.generation.card import CARD
from kdtool.generation.filters import Candidate
from kdtool.generation.request import Answer, Request
from kdtool.generation.store import FILE, Line, Store, lines_of
from kdtool.generation.style import Style
from kdtool.system.disk import sweep, write_whole
from kdtool.system.locks import sole_lock

ASKED = "asked"
"""Folder of all that was paid for; what lies beside it is made of this, and may be made anew."""
TRAIN = "train.jsonl"
FAILED = "failed.jsonl"
STYLE = "style.yaml"
SHOWN = 3
"""Samples in the card."""


@contextmanager
def held(folder: Path) -> Iterator[Store]:
    """Hold a set's folder, and yield the answers in it.

    Raises:
        InputError: another process writes there, or something else lies there.
    """
    asked = folder / ASKED
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder}: it is a file; name a folder.")
    if folder.is_dir() and not asked.is_dir() and any(folder.iterdir()):
        raise InputError(f"--out {folder}: the folder holds something else; name another, or an empty one.")
    with sole_lock(asked / "lock", str(folder)):
        sweep(folder)
        store = Store(asked)
        try:
            yield store
        finally:
            store.close()


def samples_of(
    kept: Sequence[Candidate], style: Style, demonstrations: Mapping[str, Sequence[Mapping[str, str]]]
) -> Iterator[dict[str, Any]]:
    """Yield what is learnt of answers: "id", "kind", "weight" and "messages" each; of those with log-probabilities also
    the "key" under which these are kept.

    Args:
        kept: the answers.
        style: writes samples.
        demonstrations: those of each row, by its id.
    """
    for one in kept:
        assert one.values is not None
        for sample in style.write(one.row, one.values, demonstrations.get(one.row.id, ())):
            more = {"key": one.key} if one.answer.logprobs else {}
            yield {"id": f"{one.row.id}/{one.number}", **more, **sample}


def write_set(folder: Path, samples: Sequence[Mapping[str, Any]], style: Style) -> dict[str, Any]:
    """Write the samples, where ``--data`` finds them, and the style.

    Returns:
        "count" and "kinds", how many there are of each.

    Raises:
        RunError: they cannot be written.
    """
    lines = "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
    write_whole(folder / TRAIN, lines)
    write_whole(folder / ASKED / STYLE, style.text)
    return {"count": len(samples), "kinds": dict(Counter(str(sample["kind"]) for sample in samples))}


def read_set(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a set's card and samples.

    Raises:
        InputError: they cannot be read.
    """
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        lines = (folder / TRAIN).read_text(encoding="utf-8").split("\n")
        samples = [json.loads(line) for line in lines if line]
        if card["format"] != 1 or not all(sample["messages"][-1]["content"] for sample in samples):
            raise KeyError("format")
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(
            f"{folder} is no generated set that can be read ({first_line(error)}); `kdtool generate` makes it "
            f"anew from {ASKED}/."
        ) from error
    return card, samples


def is_set(name: str) -> bool:
    """Tell whether a name is the folder of a generated set."""
    folder = Path(name).expanduser()
    return (folder / CARD).is_file() and (folder / ASKED).is_dir()


def read_answers(folder: Path, keys: Collection[str]) -> Iterator[tuple[str, Answer]]:
    """Yield those answers of a set that are kept under some keys; nothing is locked or mended.

    Raises:
        InputError: they cannot be read.
    """
    try:
        for line in lines_of(folder / ASKED / FILE):
            if isinstance(line, Line) and line.key in keys and line.answer is not None:
                yield line.key, line.answer
    except OSError as error:
        raise InputError(f"{folder}: its answers cannot be read ({first_line(error)}).") from error


def list_failures(folder: Path, failed: Sequence[tuple[Request, str]]) -> None:
    """List the requests that failed in the last run; an older list is replaced.

    Raises:
        RunError: it cannot be written.
    """
    lines = (json.dumps({"why": why, "messages": request.messages, "key": request.key}) for request, why in failed)
    write_whole(folder / ASKED / FAILED, "".join(line + "\n" for line in lines))
