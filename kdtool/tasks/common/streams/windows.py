"""The windows that a reader's lanes stand in: all of a stream that is held."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np

from kdtool.errors import InputError
from kdtool.tasks.common.streams.lanes import Lanes, Request, Window
from kdtool.tasks.common.streams.stream import Stream

S = TypeVar("S")


@dataclass
class Held(Generic[S]):
    """A window with its samples, their shuffled order, and the rest of the shard.

    Attributes:
        made: what whoever reads it has made of its samples, to be kept as long as the window is.
    """

    window: Window
    samples: list[S]
    order: np.ndarray
    rest: Iterator[S]
    made: dict[int, Any] = field(default_factory=dict)


class Windows(Generic[S]):
    """Finds samples: it goes on where a lane stands, or opens the shard at that place.

    Args:
        lanes: which sample is where.
        stream: what is read.

    Attributes:
        held: by lane.
    """

    def __init__(self, lanes: Lanes, stream: Stream[S]):
        self.lanes, self.stream = lanes, stream
        self.held: dict[int, Held[S]] = {}

    def of(self, request: Request) -> Iterator[tuple[Held[S], int]]:
        """Yield the samples that are asked for: the window of each, and its place in there.

        Raises:
            InputError: a shard cannot be read, or has fewer samples than were counted.
        """
        for number in range(request.first, request.first + request.count):
            window, place = self.lanes.sample(request.lane, number)
            held = self._hold(request.lane, window)
            yield held, int(held.order[place])

    def first(self, held: Held[S]) -> int:
        """Return the number of a window's first sample in the stream."""
        return int(self.stream.first[held.window.shard]) + held.window.start

    def _hold(self, lane: int, window: Window) -> Held[S]:
        """Return the samples of a lane's window, which are read unless the lane stands there already."""
        held = self.held.get(lane)
        if held is not None and held.window == window:
            return held
        if held is not None and held.window[:2] == window[:2] and held.window.start + held.window.size == window.start:
            rest = held.rest
        else:
            rest = self.stream.shards.read(window.shard, window.start)
        samples = [sample for _, sample in zip(range(window.size), rest, strict=False)]
        if len(samples) < window.size:
            raise InputError(
                f"the shard {self.stream.shards.names[window.shard]} holds fewer samples than when it was counted: it "
                "was changed."
            )
        self.held[lane] = Held(window, samples, self.lanes.order(window), rest)
        return self.held[lane]
