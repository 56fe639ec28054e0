"""Texts that join distillation without a label: a file's lines, or the column of a table."""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path

from kdtool.errors import InputError
from kdtool.tasks.common.files.cells import Unfit, sound
from kdtool.tasks.common.files.faults import BadLine
from kdtool.tasks.common.files.kinds import KINDS, open_table
from kdtool.tasks.common.files.lines import Lines
from kdtool.tasks.text.data.read import read
from kdtool.tasks.text.data.texts import Texts


def read_unlabelled(path: Path, pairs: bool, columns: Sequence[str]) -> tuple[Texts, list[BadLine]]:
    """Return a file's texts, and its bad lines; labels that a table has are not looked at.

    Args:
        path: the file; a table, whose lines hold more than a text, is known by how its name ends.
        pairs: two texts are wanted: two columns, or a line's two with a tab between them.
        columns: the recipe's ``data.text``, for a table that has them too; else they are found by their names.

    Raises:
        InputError: it is not there, holds nothing, or is a table without such columns.
    """
    if not path.is_file():
        what = "is a folder; name a file of lines, or a table" if path.is_dir() else "is missing"
        raise InputError(f"data.unlabelled={path} {what}.")
    if path.suffix.lower() not in KINDS:
        return _read_lines(path, pairs)
    table = open_table(path)
    part = read(table, columns if set(columns) <= set(table.columns) else (), None, labels=False)
    if (part.texts.second is not None) != pairs:
        raise InputError(
            f"data.unlabelled={path} was read from {' and '.join(part.columns.text)}, and the data from "
            f"{'a pair of columns' if pairs else 'one column'}: single texts and pairs do not mix. data.text names the "
            "columns."
        )
    if not len(part) and not part.bad:
        raise InputError(f"data.unlabelled={path} is empty: there is nothing but a header.")
    return part.texts, part.bad


def _read_lines(path: Path, pairs: bool) -> tuple[Texts, list[BadLine]]:
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
