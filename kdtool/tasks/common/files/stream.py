"""Lines of a stream as they come: a pipe's as soon as they are there, and none longer than memory allows."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import IO

from kdtool.tasks.common.files.lines import NOT_UTF8, UTF16, is_utf16

AT_ONCE = 1 << 16
"""Bytes that are read at once at most; of a pipe, those that are there."""

LONGEST = 1 << 20
"""Bytes of a line at most: an endless one would fill the memory."""


def blocks(stream: IO[bytes]) -> Iterator[list[bytes | None]]:
    """Yield whole lines without their ends, as many as came together; None for one that is too long."""
    read = getattr(stream, "read1", stream.read)
    rest, first, endless = b"", True, False
    while data := read(AT_ONCE):
        *whole, rest = (rest + data).split(b"\n")
        if first and whole:
            whole[0], first = whole[0].removeprefix(codecs.BOM_UTF8), False
        lines: list[bytes | None] = [line if len(line) <= LONGEST else None for line in whole]
        if endless and lines:
            lines[0], endless = None, False
        if len(rest) > LONGEST:
            rest, endless = b"", True
        if lines:
            yield lines
    if rest or endless:
        yield [None if endless else rest.removeprefix(codecs.BOM_UTF8) if first else rest]


def decoded(line: bytes | None) -> tuple[str, str]:
    """Return a line's text as people read it, and what is wrong with it, "" where nothing is."""
    if line is None:
        return "", f"it is longer than {LONGEST:,} bytes."
    if is_utf16(line):
        return line.decode(errors="replace"), UTF16
    try:
        return line.decode(), ""
    except UnicodeDecodeError as error:
        byte = f"(byte {error.start + 1}: 0x{line[error.start]:02x})"
        return line.decode(errors="replace"), f"{NOT_UTF8[:-1]} {byte}."
