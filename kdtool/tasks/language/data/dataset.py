"""Samples in tokens, ready to be trained and tested on. One token that is learnt is one row."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np

from kdtool.tasks.common.files.faults import FILE, Faults
from kdtool.tasks.common.held import HeldData
from kdtool.tasks.language.data.chats import Chat, Sample, Writer
from kdtool.tasks.language.data.encode import Tokenized
from kdtool.tasks.language.models.tokens import Tokens


@dataclass(frozen=True)
class Split:
    """Some of a data set's samples.

    Attributes:
        samples: all of the data set's, by row.
        rows: (N,) int64 row in ``samples`` by position.
        extra_fingerprint: None: none joined from elsewhere.
    """

    samples: Tokenized = field(repr=False)
    rows: np.ndarray
    extra_fingerprint: None = None

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def offsets(self) -> np.ndarray:
        """(N + 1,) int64: sample i's rows of a loss are ``offsets[i]`` up to ``offsets[i + 1]``."""
        before = np.concatenate([[0], np.cumsum(self.samples.learnt, dtype=np.int64)])
        counts = before[self.samples.starts[self.rows + 1]] - before[self.samples.starts[self.rows]]
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    @cached_property
    def labels(self) -> np.ndarray:
        """(R,) int64: the token that each row of a loss is to predict."""
        found = [ids[learnt] for ids, learnt in (self.samples[row] for row in self.rows)]
        return np.concatenate(found).astype(np.int64) if found else np.zeros(0, dtype=np.int64)

    @property
    def lengths(self) -> np.ndarray:
        """(N,) tokens of each sample."""
        return self.samples.lengths[self.rows]

    def take(self, positions: np.ndarray) -> Split:
        """Return the samples at these positions."""
        return dataclasses.replace(self, rows=self.rows[positions])

    def digest(self) -> str:
        """Return the sha256 of the rows, in order."""
        return hashlib.sha256(self.rows.tobytes()).hexdigest()


class Names(Sequence[str]):
    """The classes: a vocabulary's tokens, by number.

    Args:
        tokens: the tokenizer.
        count: V.
    """

    def __init__(self, tokens: Tokens, count: int):
        self.tokens, self.count = tokens, count

    def __len__(self) -> int:
        return self.count

    @overload
    def __getitem__(self, number: int) -> str: ...
    @overload
    def __getitem__(self, number: slice) -> list[str]: ...
    def __getitem__(self, number: int | slice) -> str | list[str]:
        """Return a token's name; of a number without a token, that in brackets."""
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(self.count))]
        if not -self.count <= number < self.count:
            raise IndexError(number)
        number %= self.count
        return self.tokens.by_number.get(number, f"[{number}]")

    def __iter__(self) -> Iterator[str]:
        return (self[number] for number in range(self.count))


@dataclass(frozen=True)
class LanguageData(HeldData):
    """Samples of a language, in tokens.

    Attributes:
        raw: the samples as they were read; ``Tokenized.sources`` are their numbers.
        writer: how they were written; its tokenizer is the student's.
        notes: sentences for the user.
        bad: the lines left out.
    """

    notes: list[str] = field(default_factory=list)
    raw: Sequence[Sample] = field(default=(), repr=False)
    writer: Writer = field(kw_only=True)
    bad: Faults = field(default_factory=Faults)

    @property
    def tokens(self) -> Tokens:
        """The tokenizer that all networks share."""
        return self.writer.tokens

    def sources(self, split: Split) -> list[Sample]:
        """Return the samples that a split's are, or are pieces of, each once."""
        return [self.raw[number] for number in dict.fromkeys(split.samples.sources[split.rows].tolist())]

    def list_faults(self, folder: Path) -> None:
        """List in a run's folder the lines that were left out."""
        self.bad.write_to(folder / FILE)

    def faults(self) -> str | None:
        """Return a sentence on the lines that were left out, None without any."""
        count = len(self.bad)
        if not count:
            return None
        where = f": see {self.bad.path}" if self.bad.path is not None else ""
        return f"{count:,} bad line{' of the data was' if count == 1 else 's of the data were'} left out{where}"


def digest_of(samples: Sequence[Sample], *more: Any) -> str:
    """Return the sha256 of samples, in order, and of what else decides what becomes of them."""
    total = hashlib.sha256(json.dumps(more).encode())
    for sample in samples:
        plain = [sample.turns, sample.glue] if isinstance(sample, Chat) else sample
        total.update(json.dumps(plain).encode() + b"\n")
    return total.hexdigest()
