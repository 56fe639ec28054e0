"""Files of chats and texts as shards: where in them a sample stands is counted once, and read from there.

A chat is one sample. A plain text that is longer than ``data.max_length`` is as many as it is about to have pieces,
told by its characters, for nothing is put into tokens before it is read; each of them is a piece of the text, see
``kdtool.tasks.language.data.passing``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kdtool.errors import InputError, from_os
from kdtool.tasks.common.files.arrow import Parquet
from kdtool.tasks.common.files.faults import BadLine
from kdtool.tasks.common.files.folders import kind_of
from kdtool.tasks.common.files.lines import JsonLines, Lines
from kdtool.tasks.language.data.chats import Sample
from kdtool.tasks.language.data.read import KINDS, PARQUET, TEXT, Entry, entries, paragraphs

CHARACTERS = 4
"""Of a token, about; of English with a vocabulary of tens of thousands."""

APART = 128
"""Samples between two places of a shard that are known, at least: as many may be read in vain."""

LISTED = 100
"""Bad lines of a shard that are kept at most; all are counted."""


class Passing(NamedTuple):
    """A sample of a stream: the ``piece``-th of ``pieces`` that a chat or text is counted as, and its line."""

    sample: Sample
    piece: int
    pieces: int
    line: int


@dataclass(frozen=True)
class Counted:
    """What is known of a shard.

    Attributes:
        length: its samples.
        whole: chats and texts; fewer, where texts are long.
        places: (M, 3) int64, where reading can begin: the number of the first sample, and the lines (or rows) and
            bytes before it.
        columns: of a table.
        bad: lines that hold no sample.
        listed: the first of them.
    """

    length: int
    whole: int
    places: np.ndarray = field(repr=False)
    columns: list[str]
    bad: int
    listed: list[BadLine] = field(repr=False)

    @classmethod
    def of(cls, plain: Any) -> Counted:
        """Return it from what ``Texts.count`` gave."""
        places = np.array(plain["places"], dtype=np.int64).reshape(-1, 3)
        columns = [str(name) for name in plain["columns"]]
        listed = [BadLine(**each) for each in plain["listed"]]
        return cls(int(plain["length"]), int(plain["whole"]), places, columns, int(plain["bad"]), listed)


class Texts:
    """Files of chats and texts, which may be of several kinds: ``kdtool.tasks.common.streams.stream.Shards``.

    What lies before a place is passed over: of a .jsonl or .txt file nothing of it is read, of a .parquet file none of
    the groups of rows before; a .gz file is unpacked up to there, and not looked at.

    Args:
        paths: the files.
        max_length: ``data.max_length``.
        counted: what is known of each; None: to be counted.
    """

    def __init__(self, paths: Sequence[Path], max_length: int, counted: Sequence[Counted] | None = None):
        self.paths, self.max_length, self.counted = list(paths), max_length, counted
        self.names = [str(path) for path in paths]
        self.keys = [_key(path) for path in paths]

    def count(self, shard: int) -> dict[str, Any]:
        """Return what is known of a shard once it is read, as JSON keeps it; see ``Counted``.

        Raises:
            InputError: it cannot be read.
        """
        opened = _Opened(self.paths[shard], [], (0, 0))
        length, whole, bad, listed, places = 0, 0, 0, list[BadLine](), [(0, 0, 0)]
        place = opened.place
        for _, found in opened.entries:
            if isinstance(found, BadLine):
                bad += found.lines
                listed += [found] if len(listed) < LISTED else []
            else:
                if length >= places[-1][0] + APART:
                    places.append((length, *place))
                length += self.pieces(found)
                whole += 1
            place = opened.place
        return {
            "length": length, "whole": whole, "places": places, "columns": opened.columns, "bad": bad,
            "listed": [asdict(each) for each in listed],
        }  # fmt: skip

    def pieces(self, sample: Sample) -> int:
        """Return how many samples a chat or text counts as."""
        return max(1, -(-len(sample) // (CHARACTERS * self.max_length))) if isinstance(sample, str) else 1

    def read(self, shard: int, start: int) -> Iterator[Passing]:
        """Yield a shard's samples from number ``start`` on.

        Raises:
            InputError: it cannot be read, or was changed since it was counted.
        """
        assert self.counted is not None
        path, known = self.paths[shard], self.counted[shard]
        if _key(path) != self.keys[shard]:
            raise InputError(f"the shard {path} was changed since its samples were counted. Start again.")
        number, *place = known.places[np.searchsorted(known.places[:, 0], start, side="right") - 1].tolist()
        for line, found in _Opened(path, known.columns, (place[0], place[1])).entries:
            if isinstance(found, BadLine):
                continue
            pieces = self.pieces(found)
            for piece in range(max(0, start - number), pieces):
                yield Passing(found, piece, pieces, line)
            number += pieces


class _Opened:
    """A file that is read from a place on.

    Args:
        path: of the file.
        columns: of a table; none: not known yet.
        begin: lines (or rows) and bytes that lie before.
    """

    entries: Iterator[Entry]

    def __init__(self, path: Path, columns: Sequence[str], begin: tuple[int, int]):
        kind, self.columns = kind_of(path, KINDS), list[str]()
        self._at: Lines | Parquet
        if kind == TEXT:
            self._at = Lines(path, *begin)
            self.entries = paragraphs(self._at)
            return
        table: JsonLines | Parquet
        if kind == PARQUET:
            table = self._at = Parquet(path, str(path), begin[0], beside=True)
        else:
            self._at = Lines(path, *begin)
            table = JsonLines(path, str(path), self._at, columns)
        self.columns, self.entries = table.columns, entries(table)

    @property
    def place(self) -> tuple[int, int]:
        """The lines (or rows) and bytes that were read; to be asked for behind a good entry."""
        return self._at.number, self._at.end if isinstance(self._at, Lines) else 0


def _key(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError as error:
        raise from_os(error) from error
    return f"{path.name}|{stat.st_size}|{stat.st_mtime_ns}"
