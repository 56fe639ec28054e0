"""One table read: its texts and labels, and which of its lines hold no sample."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdtool.errors import InputError
from kdtool.tasks.common.files.arrow import Parquet
from kdtool.tasks.common.files.cells import Unfit, sound, text_of
from kdtool.tasks.common.files.faults import BadLine
from kdtool.tasks.common.files.lines import Delimited, JsonLines
from kdtool.tasks.common.files.tables import Row, Table, shown
from kdtool.tasks.text.data.columns import Columns, choose
from kdtool.tasks.text.data.texts import Texts

KINDS: dict[str, Callable[[Path, str], Table]] = {
    ".tsv": Delimited,
    ".csv": Delimited,
    ".jsonl": JsonLines,
    ".parquet": Parquet,
}
"""The files that can be read, by how their names end."""

_WHOLE = re.compile(r"-?[0-9]{1,18}")


@dataclass
class Part:
    """What was read of a table.

    Attributes:
        origin, unit: the table's.
        columns: those that were read.
        declared: the class names that the table gives, in their order; None: they are found in the labels.
        texts: N of them.
        labels: N class names, whole numbers without leading zeros; None where there is no label.
        lines: N numbers of the lines that they are from.
        bad: the lines left out.
    """

    origin: str
    unit: str
    columns: Columns
    declared: list[str] | None
    texts: Texts
    labels: list[str | None] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    bad: list[BadLine] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.texts)


def open_table(path: Path) -> Table:
    """Open a file.

    Raises:
        InputError: it is of no kind that is known, is empty, or its header cannot be read.
    """
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise InputError(f"{path}: a file of texts is one of {', '.join(KINDS)}.")
    return kind(path, str(path))


def read(table: Table, text: Sequence[str], label: str | None, *, bare: bool = False) -> Part:
    """Read a table whole; what its bad lines are too many for is the caller's to say.

    Args:
        table: what to read.
        text: the recipe's ``data.text``.
        label: the recipe's ``data.label``.
        bare: the table may be without a column of labels.

    Raises:
        InputError: it cannot be read, or its columns are not there.
    """
    columns = choose(table, text, label, bare=bare)
    declared = table.declared(columns.label) if columns.label is not None else None
    pairs = len(columns.text) == 2
    part = Part(table.origin, table.unit, columns, declared, Texts([], [] if pairs else None))
    wanted = [*columns.text, *([] if columns.label is None else [columns.label])]
    for row in table.rows(wanted):
        try:
            _add(part, row)
        except Unfit as why:
            part.bad.append(BadLine(table.origin, row.line, str(why), table.unit, row.lines))
    return part


def _add(part: Part, row: Row) -> None:
    if row.cells is None:
        raise Unfit(row.why)
    texts = [text_of(cell, name) for cell, name in zip(row.cells, part.columns.text, strict=False)]
    label = _label(row.cells[-1], part.declared) if part.columns.label is not None else None
    part.texts.first.append(texts[0])
    if part.texts.second is not None:
        part.texts.second.append(texts[1])
    part.labels.append(label)
    part.lines.append(row.line)


def _label(cell: Any, declared: list[str] | None) -> str | None:
    """Return a class's name, None for none."""
    if cell is None or cell != cell:  # pandas writes NaN where there is none
        return None
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    if isinstance(cell, bool):
        return str(cell).lower()
    if not isinstance(cell, (str, int)):
        raise Unfit(f"its label {shown(cell)} is neither a name nor a whole number.")
    text = str(cell).strip()
    if not text or text == "-1":
        return None
    text = sound(text, "its label")
    if not _WHOLE.fullmatch(text):
        return text
    number = int(text)
    if declared is None:
        return str(number)
    if isinstance(cell, str):
        return text
    if not 0 <= number < len(declared):
        raise Unfit(f"its label {number} is outside 0..{len(declared) - 1}.")
    return declared[number]
