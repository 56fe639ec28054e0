"""Classes in a table's cells."""

from __future__ import annotations

import re
from typing import Any

from kdtool.tasks.common.files.cells import Unfit, sound
from kdtool.tasks.common.files.tables import shown

LABEL_COLUMNS = ("label", "labels", "target", "class", "category")
"""Columns of classes that are found by their names, the first of these; whatever their case."""

_WHOLE = re.compile(r"(-?[0-9]{1,18})(?:\.0+)?")
"""A whole number; with a point where pandas wrote a column of which some cells are empty."""


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
    whole = _WHOLE.fullmatch(text)
    number = int(whole[1]) if whole else None
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
