"""Which samples of a stream form a batch: it follows from the seed and the step alone.

The samples, numbered through all shards, are cut into a fixed number of lanes of equal length, and a global batch takes
as many samples of each lane. Processes and their workers share the lanes, so neither count changes a batch, and a run
goes on at any step: where a lane stands then is computed, and only its current shard is opened. Within a lane the order
of its pieces of shards, and of samples within windows of a piece, is drawn anew in every pass.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from kdtool.errors import InputError
from kdtool.randomness import key_of
from kdtool.tasks.common.streams.stream import Stream

LANES = 256
"""Lanes at most: how many places of the data a batch mixes, and how many processes can share one."""

LANE_SHARE = 4
"""Samples of a lane in a batch at least: who mixes samples finds partners among them."""

WINDOW = 256
"""Samples of a shard that a lane holds and shuffles."""


@dataclass(frozen=True)
class Request:
    """A lane's part of a batch: its samples ``first`` to ``first + count - 1``, counted over all passes."""

    lane: int
    first: int
    count: int
    view: int


class Window(NamedTuple):
    """``size`` samples of a shard, from its sample ``start`` on, as a lane reads them in one of its passes."""

    turn: int
    shard: int
    start: int
    size: int


class Lanes:
    """Which sample is the n-th of a lane.

    Args:
        stream: what is read.
        count: lanes.
        seed: of the order.
    """

    def __init__(self, stream: Stream[Any], count: int, seed: int):
        self.stream, self.count, self.seed = stream, count, seed
        self.bounds = np.arange(count + 1) * len(stream) // count
        self._current: dict[int, _Pass] = {}

    def sample(self, lane: int, number: int) -> tuple[Window, int]:
        """Return the window that a lane's ``number``-th sample is in, and its place in the window's shuffled order."""
        turn, left = divmod(number, int(self.bounds[lane + 1] - self.bounds[lane]))
        current = self._current.get(lane)
        if current is None or current.turn != turn:
            current = self._current[lane] = self._pass(lane, turn)
        piece = bisect_right(current.ends, left)
        end, start, shard = current.ends[piece], current.starts[piece], current.shards[piece]
        size = end - (current.ends[piece - 1] if piece else 0)
        at = left - (end - size)
        skipped = at - at % WINDOW
        return Window(turn, shard, start + skipped, min(WINDOW, size - skipped)), at % WINDOW

    def _pass(self, lane: int, turn: int) -> _Pass:
        """Return the pieces of shards that a lane consists of, in the order of one of its passes."""
        low, high = self.bounds[lane], self.bounds[lane + 1]
        first, lengths = self.stream.first, np.array(self.stream.lengths)
        shards = np.flatnonzero((first < high) & (first + lengths > low))
        shards = shards[self._draw("shards", turn, lane).permutation(len(shards))]
        starts = np.maximum(first[shards], low)
        ends = np.cumsum(np.minimum(first[shards] + lengths[shards], high) - starts)
        return _Pass(turn, shards.tolist(), (starts - first[shards]).tolist(), ends.tolist())

    def order(self, window: Window) -> np.ndarray:
        """Return the order of a window's samples."""
        return self._draw("window", *window).permutation(window.size)

    def _draw(self, *purpose: int | str) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key_of("stream", *purpose, self.seed)))


@dataclass(frozen=True)
class _Pass:
    """A lane's pieces of shards: which, from which sample on, and how many samples of the lane they end."""

    turn: int
    shards: list[int]
    starts: list[int]
    ends: list[int]


class Plan:
    """How the batches of a stream are asked for, by one of the processes that share them.

    Args:
        stream: what is read.
        batch_size: samples in a global batch.
        part: (r, n): read the r-th of n parts of each batch.
        workers: processes that read, at most.
        steps: batches in an epoch, which is a part of the step budget here, not a pass over the data.
        views: ``data.views``.

    Attributes:
        lanes: how many.
        share: samples of a lane in a batch.
        own: this process's lanes.
        workers: how many of them are used.
        placement: how it is read, in words.

    Raises:
        InputError: a batch cannot be divided among n processes.
    """

    def __init__(
        self, stream: Stream[Any], batch_size: int, part: tuple[int, int], workers: int, steps: int, views: int | None
    ):
        self.stream, self.batch_size, self.steps, self.views = stream, batch_size, steps, views
        limit = max(1, min(LANES, batch_size // LANE_SHARE, len(stream)))
        self.lanes = next(count for count in range(limit, 0, -1) if batch_size % count == 0)
        if self.lanes % part[1]:
            raise InputError(
                f"a batch of {batch_size} samples of a stream is read in {self.lanes} lanes, which {part[1]} processes "
                f"cannot share: choose a --batch-size that is a multiple of {LANE_SHARE * part[1]}."
            )
        self.share = batch_size // self.lanes
        own = self.lanes // part[1]
        self.own = range(part[0] * own, (part[0] + 1) * own)
        # Each worker reads the same lanes all the time, so that it goes on in the shards that it has open.
        self.workers = next(count for count in range(min(workers, own), 0, -1) if own % count == 0) if workers else 0
        self.placement = (
            f"streamed from {len(stream.lengths)} shards in {self.lanes} lanes through {self.workers} workers, {steps} "
            "steps an epoch"
        )

    def numbers(self, epoch: int, start: int) -> range:
        """Return the steps of an epoch from its batch ``start`` on, counted over all epochs."""
        return range(epoch * self.steps + start, (epoch + 1) * self.steps)

    def requests(self, numbers: range) -> list[Request]:
        """Return what to ask for, step by step and in each lane by lane."""
        return [Request(lane, step * self.share, self.share, self.view(step)) for step in numbers for lane in self.own]

    def view(self, step: int) -> int:
        """Return which view of its samples a step sees: a new one each pass."""
        # Of all lanes at once: their lengths differ by one sample at most.
        passes = step * self.batch_size // len(self.stream)
        return passes % self.views if self.views else passes
