"""What a teacher is asked about: the rows of a file, with the answers that are known."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdtool.errors import InputError, did_you_mean
from kdtool.generation.request import Messages
from kdtool.tasks.common.files.arrow import Parquet
from kdtool.tasks.common.files.cells import Unfit, text_of
from kdtool.tasks.common.files.lines import Delimited, JsonLines, Lines
from kdtool.tasks.common.files.tables import Table, columns_called, shown

QUESTION, ANSWER, HISTORY = "question", "answer", "messages"
ROLES = ("system", "user", "assistant")

TABLES: dict[str, Callable[[Path, str], Table]] = {
    ".jsonl": JsonLines, ".parquet": Parquet, ".tsv": Delimited, ".csv": Delimited,
}  # fmt: skip
TEXT = ".txt"

COLUMNS: tuple[tuple[tuple[str, ...], str], ...] = (
    ((HISTORY,), ""),
    (("prompt",), "completion"),
    ((QUESTION,), ANSWER),
    (("instruction", "input"), "output"),
    (("instruction",), "output"),
    (("sentence",), "label"),
    (("text",), "label"),
)
"""What the columns of questions are called, the first of these that a file has, and that of the known answer."""

MARKS = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|</?s>|<(?:bos|eos|pad|unk|mask)>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<\uff5c[^\uff5c<>]{1,40}\uff5c>",
    re.IGNORECASE,
)
"""What begins and ends turns in chat templates. A text that holds it could pretend to be another turn."""


@dataclass(frozen=True)
class Row:
    """What one question is made of.

    Attributes:
        id: as the file numbers it, or the number of its line.
        values: what templates may name: "question", "answer" where it is known, and other columns.
        history: turns before the question.
    """

    id: str
    values: Mapping[str, str]
    history: Messages = ()

    @property
    def question(self) -> str:
        """What is asked."""
        return self.values[QUESTION]

    @property
    def answer(self) -> str | None:
        """What is known to be right."""
        return self.values.get(ANSWER)


@dataclass
class Rows:
    """A file's rows.

    Attributes:
        rows: in their order.
        marked: ids of those left out, since they hold marks of a chat template.
    """

    rows: list[Row] = field(default_factory=list)
    marked: list[str] = field(default_factory=list)


def read_rows(path: Path, names: Collection[str] = (), keep_marks: bool = False) -> Rows:
    """Read a file of questions whole.

    Args:
        path: a table, or a text of a question a line.
        names: columns that are wanted besides question and answer.
        keep_marks: take rows that hold what begins and ends turns in chat templates.

    Raises:
        InputError: it is of no kind that is known, has no column of questions or not those wanted, or a bad line.
    """
    kind = path.suffix.lower()
    if not path.is_file():
        raise InputError(f"{path}: there is no such file. Questions are a file ({', '.join([*TABLES, TEXT])}).")
    if kind != TEXT and kind not in TABLES:
        raise InputError(f"{path}: a file of questions is one of {', '.join([*TABLES, TEXT])}.")
    found = Rows()
    for row in _text(path) if kind == TEXT else _table(TABLES[kind](path, str(path)), names):
        texts = [*row.values.values(), *(content for _, content in row.history)]
        if not keep_marks and any(MARKS.search(text) for text in texts):
            found.marked.append(row.id)
        else:
            found.rows.append(row)
    if not found.rows:
        marked = f" without marks of a chat template ({len(found.marked)} hold some)" if found.marked else ""
        raise InputError(f"{path} holds no question{marked}.")
    missing = [name for name in names if name not in found.rows[0].values]
    if missing:
        raise InputError(
            f"{path}: the style wants {shown(missing[0])}, which is not there. "
            f"{did_you_mean(missing[0], found.rows[0].values)}"
        )
    return found


def _text(path: Path) -> list[Row]:
    lines, rows = Lines(path), []
    for line in lines:
        if lines.spoilt:
            raise InputError(f"{path}, line {lines.number}: {lines.spoilt} Mend or remove it.")
        if line.strip():
            rows.append(Row(str(lines.number), {QUESTION: line.strip()}))
    return rows


def _table(table: Table, names: Collection[str]) -> list[Row]:
    rows = []
    for line, row in questions(table, names):
        if isinstance(row, Unfit):
            raise InputError(f"{table.origin}, {table.unit} {line}: {row} Mend or remove it.") from row
        rows.append(row)
    return rows


def questions(table: Table, names: Collection[str] = ()) -> Iterator[tuple[int, Row | Unfit]]:
    """Return by number of its line each row of a table, or why it is none.

    Args:
        table: what to read.
        names: columns that are wanted besides question and answer.

    Raises:
        InputError: it has no column of questions.
    """
    columns, answers = _columns(table)
    ids = columns_called(table, ["id"]) or ()
    more = [name for name in names if name in table.columns]
    wanted = list(dict.fromkeys([*columns, *answers, *ids, *more]))

    def each() -> Iterator[tuple[int, Row | Unfit]]:
        for line in table.rows(wanted):
            try:
                if line.cells is None:
                    raise Unfit(line.why)
                cells = dict(zip(wanted, line.cells, strict=True))
                name = str(cells[ids[0]]) if ids and cells[ids[0]] is not None else str(line.line)
                values = {column: str(cells[column]) for column in more if cells[column] is not None}
                row: Row | Unfit = _row(name, cells, columns, answers, values)
            except Unfit as why:
                row = why
            yield line.line, row

    return each()


def _columns(table: Table) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the columns of the question, and the one of the known answer where there is one."""
    for asked, known in COLUMNS:
        columns = columns_called(table, asked)
        if columns is not None:
            return columns, (columns_called(table, [known]) if known else None) or ()
    there = ", ".join(shown(name) for name in table.columns[:20])
    valid = "; ".join(" and ".join(asked) for asked, _ in COLUMNS)
    raise InputError(f"{table.origin}: its columns ({there}) hold no questions. Valid: {valid}.")


def _row(
    name: str, cells: Mapping[str, Any], asked: Sequence[str], answers: Sequence[str], values: dict[str, str]
) -> Row:
    if len(asked) == 1 and asked[0].strip().casefold() == HISTORY:
        found = row_of_messages(cells[asked[0]], asked[0])
        return Row(name, {**values, **found.values}, found.history)
    first, *more = asked
    question = text_of(cells[first], first)
    question += "".join(f"\n\n{cells[each]}" for each in more if str(cells[each] or "").strip())
    for column in answers:
        if cells[column] is not None and str(cells[column]).strip():
            values[ANSWER] = text_of(str(cells[column]), column)
    values[QUESTION] = question
    return Row(name, values)


def row_of_messages(messages: Any, column: str = HISTORY) -> Row:
    """Return messages as a row: the user's last is the question, the answer what follows it.

    Args:
        messages: {"role", "content"} each.
        column: their name in errors.

    Raises:
        Unfit: they are none, or none is the user's.
    """
    turns = _turns(messages, column)
    last = max((i for i, (role, _) in enumerate(turns) if role == "user"), default=None)
    if last is None:
        raise Unfit(f"its {shown(column)} has no message of the user.")
    known = {ANSWER: turns[last + 1][1]} if last + 1 < len(turns) else {}
    return Row("", {**known, QUESTION: turns[last][1]}, turns[:last])


def _turns(messages: Any, column: str) -> Messages:
    if not isinstance(messages, list) or not messages:
        raise Unfit(f"its {shown(column)} is no list of messages.")
    turns = []
    for number, message in enumerate(messages, 1):
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in ROLES or (role == "system" and number > 1):
            raise Unfit(f"its message {number} has the role {shown(role)}; valid: {', '.join(ROLES)} (the first only).")
        turns.append((role, text_of(message.get("content"), "content")))
    return tuple(turns)
