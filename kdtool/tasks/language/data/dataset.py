"""Samples in tokens, ready to be trained and tested on. One token that is learnt is one row."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdtool.tasks.common.files.faults import FILE, Faults
from kdtool.tasks.common.streams.stream import Stream
from kdtool.tasks.language.data.chats import Chat, Sample, Writer
from kdtool.tasks.language.data.encode import Tokenized
from kdtool.tasks.language.data.passing import Passed
from kdtool.tasks.language.data.shards import Passing
from kdtool.tasks.language.data.twin import Twin
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
        found: np.ndarray = self.samples.lengths[self.rows]
        return found

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
        size: V.
    """

    def __init__(self, tokens: Tokens, size: int):
        self.tokens, self.size = tokens, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, number: Any) -> Any:
        """Return a token's name; of a number without a token, that in brackets."""
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(self.size))]
        if not -self.size <= number < self.size:
            raise IndexError(number)
        number %= self.size
        return self.tokens.by_number.get(number, f"[{number}]")

    def __iter__(self) -> Iterator[str]:
        return (self[number] for number in range(self.size))


@dataclass(frozen=True)
class LanguageData:
    """Samples of a language in tokens: a ``kdtool.tasks.task.Dataset``.

    Attributes:
        writer: how the samples were written; its tokenizer is the student's.
        raw: the samples as they were read; ``Tokenized.sources`` are their numbers.
        bad: the lines left out.
        own_test: the source has a split to test on; else one was drawn here.
        twins: by the model of a teacher that has other tokens, the samples in these; None: nobody looked for such.
        stream: the training set, where it is streamed; ``train`` then is its beginning.
        passed: what became of its samples so far.
    """

    name: str
    class_names: Sequence[str]
    train: Split
    val: Split | None
    test: Split
    fingerprint: str
    writer: Writer
    stream: Stream[Passing] | None = None
    notes: list[str] = field(default_factory=list)
    raw: Sequence[Sample] = field(default=(), repr=False)
    bad: Faults = field(default_factory=Faults)
    own_test: bool = True
    twins: Mapping[str, Twin] | None = field(default=None, repr=False)
    passed: Passed = field(default_factory=Passed, repr=False)

    @property
    def tokens(self) -> Tokens:
        """The student's tokenizer."""
        return self.writer.tokens

    def twin(self, tokens: Tokens) -> Twin | None:
        """Return the samples in another tokenizer's tokens; None: they are the student's."""
        if tokens.digest == self.tokens.digest:
            return None
        return next((each for each in (self.twins or {}).values() if each.tokens.digest == tokens.digest), None)

    def sources(self, split: Split) -> list[Sample]:
        """Return the samples that a split's are, or are pieces of, each once."""
        return [self.raw[number] for number in dict.fromkeys(split.samples.sources[split.rows].tolist())]

    def samples_of(self, rows: Tensor) -> Tensor:
        """Return the (R,) numbers of the training samples that (R,) rows of a loss are of."""
        if self.stream is not None:
            return rows // self.passed.max_length
        return torch.searchsorted(torch.from_numpy(self.train.offsets), rows, right=True) - 1

    def list_faults(self, folder: Path) -> None:
        """List in a run's folder the lines that were left out."""
        self.bad.write_to(folder / FILE)

    def faults(self) -> str | None:
        """Return a sentence on what was left out or cut, None without any; all processes ask for it together."""
        said = [each for each in (self.bad.sentence(), self.passed.sentence()) if each is not None]
        return "; ".join(said) or None


def digest_of(samples: Sequence[Sample], *more: Any) -> str:
    """Return the sha256 of samples, in order, and of what else decides what becomes of them."""
    total = hashlib.sha256(json.dumps(more).encode())
    for sample in samples:
        plain: Any = sample
        if isinstance(sample, Chat):
            marks = [sample.kind, sample.weight] if sample.kind else []
            plain = [sample.turns, sample.glue, *marks]
        total.update(json.dumps(plain).encode() + b"\n")
    return total.hexdigest()


def kinds_of(data: LanguageData, split: Split) -> dict[str, Tensor]:
    """Return by kind the (R,) weights of a split's rows that are of it, 0 for others; {} where none has a kind."""
    chats = [data.raw[number] for number in split.samples.sources[split.rows].tolist()]
    counts = np.diff(split.offsets)
    found = {}
    for kind in sorted({each.kind for each in chats if isinstance(each, Chat) and each.kind}):
        weights = [each.weight if isinstance(each, Chat) and each.kind == kind else 0.0 for each in chats]
        found[kind] = torch.from_numpy(np.repeat(np.array(weights, dtype=np.float32), counts))
    return found
