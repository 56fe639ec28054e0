"""One table read: its texts and labels, and which of its lines hold no sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kdtool.tasks.common.files.cells import Unfit, text_of
from kdtool.tasks.common.files.faults import BadLine
from kdtool.tasks.common.files.labels import label_of
from kdtool.tasks.common.files.tables import Row, Table
from kdtool.tasks.text.data.columns import Columns, choose
from kdtool.tasks.text.data.texts import Texts


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


def read(table: Table, text: Sequence[str], label: str | None, *, bare: bool = False, labels: bool = True) -> Part:
    """Read a table whole; what its bad lines are too many for is the caller's to say.

    Args:
        table: what to read.
        text: the recipe's ``data.text``.
        label: the recipe's ``data.label``.
        bare: the table may be without a column of labels.
        labels: False where no label is wanted, whatever the table has.

    Raises:
        InputError: it cannot be read, or its columns are not there.
    """
    columns = choose(table, text, label, bare=bare or not labels)
    if not labels:
        columns = Columns(columns.text, None)
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
    label = label_of(row.cells[-1], part.declared) if part.columns.label is not None else None
    part.texts.first.append(texts[0])
    if part.texts.second is not None:
        part.texts.second.append(texts[1])
    part.labels.append(label)
    part.lines.append(row.line)
