"""Several classes an image, in a table: a column of ``a|b`` or of lists, or a column of 0 and 1 for each class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kdtool.tasks.common.files.cells import Unfit
from kdtool.tasks.common.files.labels import label_of
from kdtool.tasks.common.files.tables import shown

BETWEEN = "|"
"""What stands between classes in a cell."""

_SIGNS = (BETWEEN, ";", ",", "/", "+", "&", "\t", " ")
"""What stands between classes in tables."""

_SURE = {"single": (BETWEEN, ";"), "multi": (BETWEEN, ";", ",")}
"""Those that hardly are part of a name, by ``data.targets``; of others each part has to be a class of its own."""

_MARKS = {"1": True, "true": True, "0": False, "false": False, "": False}

Labels = tuple[str, ...]
"""The names of an image's classes; none is a set as well."""


def one(cells: Sequence[Any], declared: list[str] | None) -> Labels | None:
    """Return the one class of a cell, None for none.

    Raises:
        Unfit: it is no class, or several.
    """
    if isinstance(cells[0], (list, tuple)):
        raise Unfit(f"its label {shown(cells[0])} is several; an image has one class unless data.targets=multi.")
    name = label_of(cells[0], declared)
    return None if name is None else (name,)


def in_cell(cells: Sequence[Any], declared: list[str] | None) -> Labels | None:
    """Return the classes of a cell, ``a|b`` or a list; an empty one holds none, and -1 says that they are not known.

    Raises:
        Unfit: a part is no class.
    """
    cell = cells[0]
    if str(cell).strip() == "-1":
        return None
    parts = cell if isinstance(cell, (list, tuple)) else cell.split(BETWEEN) if isinstance(cell, str) else [cell]
    names = [label_of(part.strip() if isinstance(part, str) else part, declared) for part in parts]
    return tuple(sorted({name for name in names if name is not None}))


def taken_for_one(names: Sequence[str], targets: str) -> str | None:
    """Return a sentence on a name of a class that looks like several of an image, None without one.

    Args:
        names: of all classes.
        targets: the recipe's ``data.targets``: with "multi", ``a|b`` is several already.
    """
    whole = set(names)
    for between in _SIGNS:
        parts = {name: [part.strip() for part in name.split(between)] for name in names if between in name}
        sure = between in _SURE[targets]
        some = [name for name, apart in parts.items() if sure or whole.issuperset(apart)]
        if some and between == BETWEEN:
            return f"{shown(some[0])} is taken for one class; data.targets=multi reads it as several of an image"
        if some:
            how = "" if targets == "multi" else "with data.targets=multi, "
            return (
                f"{shown(some[0])} is taken for one class; {how}several classes of an image are read where "
                f"{BETWEEN} stands between them (a{BETWEEN}b), or as a list in .jsonl or .parquet"
            )
    return None


def by_column(names: Sequence[str]) -> Callable[[Sequence[Any], list[str] | None], Labels]:
    """Return what reads the classes of cells that are 1 in the columns of classes that an image is of, else 0."""

    def read(cells: Sequence[Any], declared: list[str] | None) -> Labels:
        return tuple(sorted(name for name, cell in zip(names, cells, strict=True) if _marked(cell, name)))

    return read


def _marked(cell: Any, name: str) -> bool:
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    mark = _MARKS.get("" if cell is None else str(cell).strip().lower())
    if mark is None:
        raise Unfit(f"its column {name} is {shown(cell)}, neither 0 nor 1.")
    return mark


def numbered(labels: Sequence[Labels | None], names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return (N,) int64 numbers of the samples' sets of classes, -1 where unknown, and (S, K) 0 or 1 of each set.

    Classes that are not among the K names are left out. Everything that is done by class, such as holding out the same
    share of each, is so done by set.
    """
    column = {name: number for number, name in enumerate(names)}
    rows = [None if each is None else tuple(sorted(column[n] for n in each if n in column)) for each in labels]
    sets = {row: number for number, row in enumerate(sorted({row for row in rows if row is not None}))}
    table = np.zeros((len(sets), len(names)), dtype=np.float32)
    for row, number in sets.items():
        table[number, list(row)] = 1
    return np.array([-1 if row is None else sets[row] for row in rows], dtype=np.int64), table
