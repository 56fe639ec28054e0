"""Tables that are lines of text: .tsv, .csv and .jsonl."""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from kdtool.errors import InputError, from_os
from kdtool.tasks.common.files.tables import Row

GZIP = ".gz"
"""What the name of a file ends with that is read unpacked."""

LONGEST = 2**31 - 1
"""Characters of a quoted field at most: what csv's own limit can be raised to everywhere."""

NOT_UTF8 = "it is not UTF-8."
NUL = "it holds a NUL character."
UTF16 = "it looks like UTF-16, and UTF-8 is wanted."


def is_utf16(line: bytes) -> bool:
    """Return whether a line seems to be of a text in UTF-16: it starts with its mark, or every other byte is mostly 0,
    as where letters are ASCII's."""
    if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return True
    zeros = line.count(0)
    return len(line) > 3 and 3 * zeros > len(line) and zeros in (line[::2].count(0), line[1::2].count(0))


class Lines:
    """A file's lines, decoded; split at line feeds only, because a text may hold what else Unicode breaks lines at.

    Args:
        path: of the file; one that ends in ``GZIP`` is unpacked, and what lies before ``end`` with it.
        number: lines that lie before.
        end: bytes that they take, unpacked.

    Attributes:
        number: of the line that was read last.
        end: where it ends.
        spoilt: what is wrong with some line since this was last set to "".
    """

    def __init__(self, path: Path, number: int = 0, end: int = 0):
        self.path, self.number, self.end, self.spoilt = path, number, end, ""

    def __iter__(self) -> Iterator[str]:
        try:
            with _opened(self.path) as stream:
                if self.end:
                    stream.seek(self.end)
                for line in stream:
                    self.number += 1
                    self.end += len(line)
                    yield self._decoded(line.removeprefix(codecs.BOM_UTF8) if self.number == 1 else line)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise InputError(f"{self.path} cannot be unpacked ({error}).") from error
        except OSError as error:
            raise from_os(error) from error

    def _decoded(self, line: bytes) -> str:
        if b"\0" in line:
            self.spoilt = NUL
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            self.spoilt = f"{NOT_UTF8[:-1]} (byte {error.start + 1} of it: 0x{line[error.start]:02x})."
            text = line.decode(errors="replace")
        if self.spoilt and is_utf16(line):
            self.spoilt = UTF16
        return text


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.name.lower().endswith(GZIP) else path.open("rb")  # type: ignore[return-value]


class Delimited:
    """A .csv file, with quotes as csv has them, or a .tsv file, whose quotes are characters like others."""

    unit = "line"

    def __init__(self, path: Path, origin: str):
        self.origin, self._quoted = origin, path.suffix.lower() == ".csv"
        self._lines = Lines(path)
        self._records = self._read()
        header = next(self._records, None)
        if header is None:
            raise InputError(f"{origin} is empty.")
        if header.cells is None:
            raise InputError(f"{origin}, line {header.line}: {header.why} A header with the columns' names is wanted.")
        if any("\r" in name for name in header.cells):
            raise InputError(f"{origin}, line 1: lines end in carriage returns alone; line feeds are wanted.")
        self.columns = [str(name).strip() for name in header.cells]

    def declared(self, column: str) -> None:
        """Return None: labels are read as they stand."""

    def rows(self, wanted: Sequence[str]) -> Iterator[Row]:
        """Yield the cells of these columns."""
        places = [self.columns.index(name) for name in wanted]
        for row in self._records:
            if row.cells is None:
                yield row
            elif len(row.cells) != len(self.columns):
                count = len(row.cells)
                why = f"it has {count} column{'' if count == 1 else 's'}, and the header {len(self.columns)}."
                yield Row(row.line, None, why, row.lines)
            else:
                yield Row(row.line, [row.cells[place] for place in places], "", row.lines)

    def _read(self) -> Iterator[Row]:
        """Yield all rows, the header's too; lines with nothing in them are left out."""
        return self._read_quoted() if self._quoted else self._read_plain()

    def _read_plain(self) -> Iterator[Row]:
        lines = self._lines
        for line in lines:
            if why := lines.spoilt:
                lines.spoilt = ""
                yield Row(lines.number, None, why)
            elif content := line.rstrip("\r\n"):
                yield Row(lines.number, content.split("\t"))

    def _read_quoted(self) -> Iterator[Row]:
        lines = self._lines
        with _long_fields():
            records = csv.reader(lines, strict=True)
            while True:
                first, cells, why = lines.number + 1, None, ""
                try:
                    cells = next(records)
                except StopIteration:
                    return
                except csv.Error as error:
                    # What follows the dash is advice to whoever opened the file.
                    why = f"its quotes or line ends are not those of a .csv file ({str(error).split(' - ')[0]})."
                count = max(1, lines.number - first + 1)
                if lines.spoilt:
                    cells, why, lines.spoilt = None, lines.spoilt, ""
                if cells is None or cells:
                    yield Row(first, cells, why, count)


@contextlib.contextmanager
def _long_fields() -> Iterator[None]:
    before = csv.field_size_limit(LONGEST)
    try:
        yield
    finally:
        csv.field_size_limit(before)


class JsonLines:
    """A .jsonl file: an object a line, whose keys are the columns.

    Args:
        path: where.
        origin: its name in messages.
        lines: where to begin; None: with the first.
        columns: those that an earlier reading found; none: the keys of its first object.

    Attributes:
        lines: as far as they are read.
    """

    unit = "line"

    def __init__(self, path: Path, origin: str, lines: Lines | None = None, columns: Sequence[str] = ()):
        self.origin, self.lines = origin, lines or Lines(path)
        self._rows = self._read(self.lines)
        self._before: list[Row] = []  # up to the first that is good
        self.columns = list(columns)
        if columns:
            return
        for row in self._rows:
            self._before.append(row)
            if row.cells is not None:
                self.columns = list(row.cells[0])
                return
        why = f" ({self._before[0].why.rstrip('.')})" if self._before else ""
        what = f"holds no line that is a JSON object; its first is line {self._before[0].line}" if why else "is empty"
        raise InputError(f"{origin} {what}{why}.")

    def declared(self, column: str) -> None:
        """Return None: labels are read as they stand."""

    def rows(self, wanted: Sequence[str]) -> Iterator[Row]:
        """Yield the values of these keys."""
        before, self._before = self._before, []
        for rows in (before, self._rows):
            for row in rows:
                if row.cells is None:
                    yield row
                    continue
                found = row.cells[0]
                missing = [name for name in wanted if name not in found]
                if missing:
                    yield Row(row.line, None, f"it has no {missing[0]!r}.")
                else:
                    yield Row(row.line, [found[name] for name in wanted])

    def _read(self, lines: Lines) -> Iterator[Row]:
        """Yield rows of one cell, the object."""
        for line in lines:
            if why := lines.spoilt:
                lines.spoilt = ""
                yield Row(lines.number, None, why)
            elif line.strip():
                found = _object(line)
                yield Row(lines.number, None, found) if isinstance(found, str) else Row(lines.number, [found])


def _object(line: str) -> dict[str, Any] | str:
    """Return the object that a line holds, or what is wrong with it."""
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        return f"it is not JSON ({error.msg}, character {error.pos + 1})."
    except (ValueError, RecursionError):
        return "it is not JSON that can be read: a number is too long, or brackets are too deep."
    return found if isinstance(found, dict) else "it is JSON, but no object {...}."
