"""Chats and texts as they were read, before they are in tokens, and which of them are held out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from kdtool.errors import InputError
from kdtool.tasks.common.files.faults import Faults
from kdtool.tasks.common.held import HeldSplit
from kdtool.tasks.common.streams.stream import Stream
from kdtool.tasks.language.data.chats import Chat, Sample
from kdtool.tasks.language.data.read import Part
from kdtool.tasks.language.data.shards import Passing
from kdtool.tasks.language.options import Data

NAMES = {"train": "training", "test": "test", "val": "validation"}
"""What messages call the splits."""


@dataclass
class Raw:
    """Samples as they were read, and what is held out of them.

    Attributes:
        samples: N of them.
        splits: by "train", "val" (or None) and "test"; each with N' rows.
        faults: the lines left out.
        own_test: there is a split to test on; else one is drawn here.
        stream: the training set, where it is streamed: "train" then is a small part of it.
    """

    samples: list[Sample]
    splits: dict[str, HeldSplit | None]
    faults: Faults = field(default_factory=Faults)
    own_test: bool = True
    stream: Stream[Passing] | None = None

    def texts(self) -> Iterator[str]:
        """Yield all texts that are trained on."""
        train = self.splits["train"]
        assert train is not None
        for row in train.rows.tolist():
            sample = self.samples[row]
            if isinstance(sample, Chat):
                yield from (content for _, content in sample.turns)
            else:
                yield sample


def joined(parts: Mapping[str, Sequence[Part]], cfg: Data) -> Raw:
    """Return files' samples, by split and one after the other.

    Raises:
        InputError: a split has none, or more bad lines than ``data.max_bad`` allows.
    """
    raw = Raw([], {}, Faults(cfg.max_bad))
    for role, some in parts.items():
        samples = [sample for part in some for sample in part.samples]
        raw.faults.note(NAMES[role], len(samples), [bad for part in some for bad in part.bad])
        if not samples:
            bad = next((str(bad) for part in some for bad in part.bad), None)
            raise InputError(f"{some[0].origin} holds no sample.{f' {bad}' if bad else ''}")
        raw.splits[role] = rows_of(len(raw.samples), len(samples))
        raw.samples += samples
    return raw


def rows_of(first: int, count: int) -> HeldSplit:
    """Return a split of so many rows, all of one class."""
    return HeldSplit(None, np.zeros(count, dtype=np.int64), np.arange(first, first + count, dtype=np.int64))
