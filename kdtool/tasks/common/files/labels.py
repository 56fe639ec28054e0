"""Classes in a table's cells."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from kdtool.errors import InputError
from kdtool.tasks.common.files.cells import Unfit, sound
from kdtool.tasks.common.files.tables import shown

LABEL_COLUMNS = ("label", "labels", "target", "class", "category")
"""Columns of classes that are found by their names, the first of these; whatever their case."""

_WHOLE = re.compile(r"(-?[0-9]{1,18})(?:\.0+)?")
"""A whole number; with a point where pandas wrote a column of which some cells are empty."""


def _number(name: str) -> int | None:
    whole = _WHOLE.fullmatch(name)
    return int(whole[1]) if whole else None


def in_order(names: Iterable[str]) -> list[str]:
    """Return the names of classes as they are numbered: numbers by their values, then names by their letters."""

    def place(name: str) -> tuple[bool, int, str]:
        number = _number(name)
        return number is None, number or 0, name

    return sorted(names, key=place)


def none_known(origin: str, column: str, count: int, unit: str) -> InputError:
    """Return the refusal of a table to be trained on, none of whose rows has a class.

    Args:
        origin: the file or split.
        column: that of classes.
        count: rows for training.
        unit: what stands in such a row, in the plural.
    """
    return InputError(
        f"--data {origin}: the labels are empty: the column {shown(column)} holds no class (it is empty or -1) for any "
        f"of the {count} training {unit}. Fill it in."
    )


def label_of(cell: Any, declared: list[str] | None) -> str | None:
    """Return a class's name, None for none: an empty cell, or -1. Whole numbers are named alike, as 1, 01 and 1.0 are.

    Args:
        cell: a name or a number.
        declared: the names that numbers stand for; None: numbers are names.

    Raises:
        Unfit: it is neither, or the number of no class.
    """
    if cell is None or cell != cell:  # pandas writes NaN where there is none
        return None
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    if isinstance(cell, bool):
        return str(cell).lower()
    if not isinstance(cell, (str, int)):
        raise Unfit(f"its label {shown(cell)} is neither a name nor a whole number.")
    text = str(cell).strip()
    number = _number(text)
    if not text or number == -1:
        return None
    text = sound(text, "its label")
    if number is None:
        return text
    if declared is None:
        return str(number)
    if isinstance(cell, str):
        return text
    if not 0 <= number < len(declared):
        raise Unfit(f"its label {number} is outside 0..{len(declared) - 1}.")
    return declared[number]
