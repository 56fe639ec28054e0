"""Files read: chats, prompts with their completions, instructions, and plain texts; and what of them is no sample."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kdtool.errors import InputError
from kdtool.tasks.common.files.arrow import Parquet
from kdtool.tasks.common.files.cells import Unfit, sound, text_of
from kdtool.tasks.common.files.faults import BadLine
from kdtool.tasks.common.files.folders import kind_of
from kdtool.tasks.common.files.lines import JsonLines, Lines
from kdtool.tasks.common.files.tables import Row, Table, columns_called, shown
from kdtool.tasks.language.data.chats import ASSISTANT, Chat, Sample

PARQUET, TEXT = ".parquet", ".txt"
TABLES: dict[str, Callable[[Path, str], Table]] = {".jsonl": JsonLines, ".jsonl.gz": JsonLines, PARQUET: Parquet}
KINDS = (*TABLES, TEXT)
"""The files that can be read, by how their names end."""

Entry = tuple[int, Sample | BadLine]
"""The number of its first line, and a sample or what is wrong with it."""

MARKS = ("kind", "weight")
"""Columns that a table of chats may have besides: what a sample is for, and how much it counts among its like."""


@dataclass
class Part:
    """What was read of a file.

    Attributes:
        origin: its name in messages.
        samples: N.
        bad: the lines left out.
    """

    origin: str
    samples: list[Sample] = field(default_factory=list)
    bad: list[BadLine] = field(default_factory=list)


def read(path: Path) -> Part:
    """Read a file whole.

    Raises:
        InputError: it is of no kind that is known, is empty, or has no columns that are known.
    """
    kind = kind_of(path, KINDS)
    if kind == TEXT:
        part = _part(str(path), paragraphs(Lines(path)))
        if not part.samples and not part.bad:
            raise InputError(f"{path} is empty.")
        return part
    if kind is None:
        raise InputError(f"{path}: a file of texts is one of {', '.join(KINDS)}.")
    return read_table(TABLES[kind](path, str(path)))


def first_sample(path: Path) -> Sample | None:
    """Return a file's first sample, which tells what its samples are; None: it has none.

    Raises:
        InputError: as ``read``.
    """
    kind = kind_of(path, KINDS)
    if kind not in TABLES:
        return next(iter(read(path).samples), None)
    every = entries(TABLES[kind](path, str(path)))
    return next((found for _, found in every if not isinstance(found, BadLine)), None)


def read_table(table: Table) -> Part:
    """Read a table whole: its columns say what its rows are.

    Raises:
        InputError: it has none of the columns that are known.
    """
    return _part(table.origin, entries(table))


def _part(origin: str, every: Iterable[Entry]) -> Part:
    part = Part(origin)
    for _, found in every:
        if isinstance(found, BadLine):
            part.bad.append(found)
        else:
            part.samples.append(found)
    return part


def entries(table: Table) -> Iterator[Entry]:
    """Yield what a table's rows are, as its columns say.

    Raises:
        InputError: it has none of the columns that are known.
    """
    columns, make = _kind(table)
    marks = [name for name in MARKS if name in table.columns] if MARKS[0] in table.columns else []
    wanted = [*columns, *(name for name in marks if name not in columns)]
    for row in table.rows(wanted):
        try:
            yield row.line, _sample(row, wanted, make)
        except Unfit as why:
            yield row.line, BadLine(table.origin, row.line, str(why), table.unit, row.lines)


def _sample(row: Row, columns: Sequence[str], make: Callable[[Mapping[str, Any]], Sample]) -> Sample:
    if row.cells is None:
        raise Unfit(row.why)
    cells = dict(zip(columns, row.cells, strict=True))
    sample = make(cells)
    if not isinstance(sample, Chat) or not isinstance(cells.get(MARKS[0]), str):
        return sample
    weight = cells.get(MARKS[1], 1.0)
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < 1e9:
        raise Unfit(f"its {shown(MARKS[1])} is no number above 0.")
    return replace(sample, kind=cells[MARKS[0]], weight=float(weight))


def _chat(columns: Sequence[str]) -> Callable[[Mapping[str, Any]], Sample]:
    (name,) = columns

    def make(cells: Mapping[str, Any]) -> Sample:
        messages = cells[name]
        if not isinstance(messages, list) or not messages:
            raise Unfit(f"its {shown(name)} is no list of messages.")
        chat = Chat(tuple(_turn(number, each) for number, each in enumerate(messages, 1)))
        if not chat.answers:
            raise Unfit(f"its {shown(name)} has no message of the {ASSISTANT}, so there is nothing to learn.")
        return chat

    return make


def _turn(number: int, message: Any) -> tuple[str, str]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise Unfit(f"its message {number} has no role.")
    content = message.get("content")
    if not isinstance(content, str):
        raise Unfit(f"its message {number} has no text as content.")
    return message["role"], sound(content, f"its message {number}")


def _pair(glue: str) -> Callable[[Sequence[str]], Callable[[Mapping[str, Any]], Sample]]:
    def of(columns: Sequence[str]) -> Callable[[Mapping[str, Any]], Sample]:
        prompt, completion = columns

        def make(cells: Mapping[str, Any]) -> Sample:
            texts = [text_of(cells[name], name) for name in (prompt, completion)]
            if not glue:  # white space between the two is part of them
                texts = [cells[prompt].lstrip(), cells[completion].rstrip()]
            return Chat((("user", texts[0]), (ASSISTANT, texts[1])), glue)

        return make

    return of


def _instruction(columns: Sequence[str]) -> Callable[[Mapping[str, Any]], Sample]:
    instruction, *more, output = columns

    def make(cells: Mapping[str, Any]) -> Sample:
        asked = text_of(cells[instruction], instruction)
        for name in more:
            if cells[name] is not None and str(cells[name]).strip():  # most have none
                asked += "\n\n" + text_of(cells[name], name)
        return Chat((("user", asked), (ASSISTANT, text_of(cells[output], output))))

    return make


def _text(columns: Sequence[str]) -> Callable[[Mapping[str, Any]], Sample]:
    (name,) = columns
    return lambda cells: text_of(cells[name], name)


COLUMNS: dict[tuple[str, ...], Callable[[Sequence[str]], Callable[[Mapping[str, Any]], Sample]]] = {
    ("messages",): _chat,
    ("prompt", "completion"): _pair(""),
    ("question", "answer"): _pair("\n"),
    ("instruction", "input", "output"): _instruction,
    ("instruction", "output"): _instruction,
    ("text",): _text,
}
"""What a table's columns are called, the first of these that it has, and what makes a sample of their cells."""


def _kind(table: Table) -> tuple[tuple[str, ...], Callable[[Mapping[str, Any]], Sample]]:
    for names, kind in COLUMNS.items():
        columns = columns_called(table, names)
        if columns is not None:
            return columns, kind(columns)
    known = "; ".join(" and ".join(names) for names in COLUMNS)
    there = ", ".join(shown(name) for name in table.columns[:20])
    raise InputError(f"{table.origin}: its columns ({there}) are none that are known. Valid: {known}.")


def paragraphs(lines: Lines) -> Iterator[Entry]:
    """Yield a plain text's paragraphs, up to an empty line each."""
    for number, paragraph, spoilt in _paragraphs(lines):
        try:
            if spoilt:
                raise Unfit(spoilt)
            yield number, sound(paragraph, "its text")
        except Unfit as why:
            yield number, BadLine(str(lines.path), number, str(why))


def _paragraphs(lines: Lines) -> Iterator[tuple[int, str, str]]:
    """Yield (number of the first line, text, what is wrong with it)."""
    first, found, spoilt = 0, list[str](), ""
    for line in lines:
        if re.fullmatch(r"\s*", line) and not lines.spoilt:
            if found:
                yield first, "".join(found), spoilt
            found, spoilt = [], ""
            continue
        if not found:
            first = lines.number
        found.append(line)
        spoilt, lines.spoilt = spoilt or lines.spoilt, ""
    if found:
        yield first, "".join(found), spoilt
