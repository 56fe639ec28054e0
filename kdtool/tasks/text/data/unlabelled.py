"""A file of lines that join distillation without a label."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

from kdtool.errors import InputError
from kdtool.tasks.common.files.cells import Unfit, sound
from kdtool.tasks.common.files.faults import BadLine
from kdtool.tasks.common.files.lines import Lines
from kdtool.tasks.text.data.texts import Texts


def read_lines(path: Path, pairs: bool) -> tuple[Texts, list[BadLine]]:
    """Return the texts of a file's lines, and its bad lines; empty lines are neither.

    Args:
        path: the file.
        pairs: a line holds two texts with a tab between them.

    Raises:
        InputError: it is not there or holds nothing.
    """
    if not path.is_file():
        what = "is a folder; name a file of lines" if path.is_dir() else "is missing"
        raise InputError(f"data.unlabelled={path} {what}.")
    texts, bad = Texts([], [] if pairs else None), []
    lines = Lines(path)
    for line in lines:
        spoilt, lines.spoilt = lines.spoilt, ""
        if not spoilt and not line.strip():
            continue
        try:
            if spoilt:
                raise Unfit(spoilt)
            fields = line.rstrip("\r\n").split("\t") if pairs else [line]
            if len(fields) != (2 if pairs else 1):
                raise Unfit("a pair of texts with one tab between them is wanted.")
            found = [sound(each, "its text") for each in fields]
        except Unfit as why:
            bad.append(BadLine(str(path), lines.number, str(why)))
            continue
        texts.first.append(found[0])
        if texts.second is not None:
            texts.second.append(found[1])
    if not len(texts) and not bad:
        raise InputError(f"data.unlabelled={path} is empty.")
    return texts, bad


def without(texts: Texts, known: Container[tuple[str, ...]]) -> Texts:
    """Return the texts whose key (``Texts.key``) is not known."""
    rows = [row for row in range(len(texts)) if texts.key(row) not in known]
    second = texts.second
    return Texts([texts.first[row] for row in rows], None if second is None else [second[row] for row in rows])
