"""Which columns of a table hold texts, and which the class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdtool.errors import InputError, did_you_mean
from kdtool.tasks.common.files.labels import LABEL_COLUMNS
from kdtool.tasks.common.files.tables import Table, columns_called, shown

TEXT_COLUMNS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("sentence",),
    ("text",),
    ("content",),
    ("review",),
    ("phrase",),
)
"""Columns of texts that are found by their names, the first of these; whatever their case."""

SEPARATORS = {"\t": "tabs", ";": "semicolons", "|": "bars", ",": "commas"}
"""What people put between columns: a header of one name that holds one is another kind of table."""


@dataclass(frozen=True)
class Columns:
    """Which columns are read.

    Attributes:
        text: one, or the two of a pair.
        label: None where the table has no labels.
    """

    text: tuple[str, ...]
    label: str | None


def choose(table: Table, text: Sequence[str], label: str | None, *, bare: bool = False) -> Columns:
    """Return the columns to read.

    Args:
        table: where.
        text: the recipe's ``data.text``: one name or two; none: found.
        label: the recipe's ``data.label``; None: found.
        bare: the table may be without labels.

    Raises:
        InputError: there are no such columns, or one of them stands there twice.
    """
    if len(text) > 2:
        raise InputError(f"data.text={shown(text)}: name one column of texts, or the two of a pair.")
    for name in text:
        _refuse_unknown(table, name, "text")
    if not text:
        candidates = (columns_called(table, names) for names in TEXT_COLUMNS)
        text = next((names for names in candidates if names is not None), ())
        if not text:
            raise InputError(
                f"{table.origin}: no column of texts was found by its name; data.text names it, or the two of a pair. "
                f"{_there(table)}"
            )
    if label is not None and not (bare and label not in table.columns):
        _refuse_unknown(table, label, "label")
    elif label is not None:
        label = None
    else:
        label = next((found[0] for name in LABEL_COLUMNS if (found := columns_called(table, (name,)))), None)
        if label is None and not bare:
            raise InputError(
                f"{table.origin}: no column of classes was found by its name; data.label names it. {_there(table)}"
            )
    if label in text:
        raise InputError(f"{table.origin}: column {shown(label)} cannot be both text and label.")
    for name in text if label is None else (*text, label):
        if table.columns.count(name) > 1:
            raise InputError(f"{table.origin}: column {shown(name)} stands in the header twice. Rename one.")
    return Columns(tuple(text), label)


def _refuse_unknown(table: Table, name: str, key: str) -> None:
    if name not in table.columns:
        near = did_you_mean(name, table.columns)
        near = f"{near} " if near.startswith("Did") and len(near) < 200 else ""
        raise InputError(
            f"{table.origin}: data.{key} names column {shown(name)}, which is not there. {near}{_there(table)}"
        )


def _there(table: Table) -> str:
    few = ", ".join(shown(name) for name in table.columns[:20])
    said = f"Its columns: {few}{', ...' if len(table.columns) > 20 else ''}."
    between = [name for mark, name in SEPARATORS.items() if len(table.columns) == 1 and mark in table.columns[0]]
    return (
        f"{said} It seems to have {between[0]} between them: a .csv file has commas, a .tsv file tabs."
        if between
        else said
    )
