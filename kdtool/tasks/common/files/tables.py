"""What every kind of file is to its reader: named columns, and rows of cells that may be bad."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        line: its number in the file, from 1.
        cells: those that were asked for, in that order; None where the row is bad.
        why: what is wrong with it.
        lines: how many lines it takes.
    """

    line: int
    cells: Sequence[Any] | None
    why: str = ""
    lines: int = 1


class Table(Protocol):
    """A file, or a split from elsewhere, that is read once.

    Attributes:
        origin: its name in messages.
        unit: "line" or "row": what its numbers count.
        columns: their names, in their order.
    """

    origin: str
    unit: str
    columns: list[str]

    def rows(self, wanted: Sequence[str]) -> Iterator[Row]:
        """Yield the cells of these columns; which are among ``columns``."""
        ...

    def declared(self, column: str) -> list[str] | None:
        """Return the class names that the numbers of a column stand for, None where the file gives none."""
        ...


def shown(value: Any) -> str:
    """Return a value as messages show it: on one line, and not longer than one."""
    text = json.dumps(value, ensure_ascii=False, default=str) if not isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def columns_called(table: Table, names: Sequence[str]) -> tuple[str, ...] | None:
    """Return the columns of these names, whatever their case; None where one is missing."""
    by_name = {column.strip().casefold(): column for column in reversed(table.columns)}
    by_name |= {column: column for column in table.columns}  # the same case goes first
    found = tuple(by_name[name] for name in names if name in by_name)
    return found if len(found) == len(names) else None
