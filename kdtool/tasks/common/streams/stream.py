"""A training set in shards that are read from front to back, numbered sample by sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Generic, Protocol, TypeVar

import numpy as np

S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)


class Shards(Protocol[S_co]):
    """A split in shards; picklable, because workers read them.

    Attributes:
        names: one a shard, for messages.
        keys: one a shard: what tells it from another, or from itself before a change.
    """

    names: list[str]
    keys: list[str]

    def read(self, shard: int, start: int) -> Iterator[S_co]:
        """Yield a shard's samples from number ``start`` on, in their order.

        Raises:
            InputError: it cannot be read.
        """
        ...


@dataclass(frozen=True)
class Stream(Generic[S]):
    """A split in shards whose samples are counted. A sample's number is its place in all shards, one after another.

    Attributes:
        shards: what is read.
        lengths: samples in each.
    """

    shards: Shards[S]
    lengths: tuple[int, ...]

    @cached_property
    def first(self) -> np.ndarray:
        """(shards,) int64 number of each shard's first sample."""
        return np.concatenate([[0], np.cumsum(self.lengths)[:-1]]).astype(np.int64)

    def __len__(self) -> int:
        return sum(self.lengths)

    def some(self, count: int) -> list[tuple[S, str]]:
        """Return about ``count`` samples, the first of each shard, and where each is from, for messages."""
        share = -(-count // len(self.lengths))
        found = (
            (sample, f"{at} of {name}")
            for shard, name in enumerate(self.shards.names)
            for at, sample in zip(range(share), self.shards.read(shard, 0), strict=False)
        )
        return list(islice(found, count))
