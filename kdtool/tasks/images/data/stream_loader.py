"""Batches of a stream: which samples form one, and how each looks, follow from the step alone.

The samples, numbered through all shards, are cut into a fixed number of lanes of equal length, and a global batch takes
as many samples of each lane. Processes and their workers share the lanes, so neither count changes a batch, and a run
goes on at any step: where a lane stands then is computed, and only its current shard is opened. Within a lane the order
of its pieces of shards, and of samples within windows of a piece, is drawn anew in every pass.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from kdtool.engine.job import Loaded
from kdtool.engine.staging import Staging
from kdtool.errors import InputError
from kdtool.randomness import key_of
from kdtool.tasks.images.data.dataset import DataSet
from kdtool.tasks.images.data.decode import UNREADABLE, decode_bytes
from kdtool.tasks.images.data.mixing import mix_labels
from kdtool.tasks.images.data.shards import Sample
from kdtool.tasks.images.data.stream import Stream
from kdtool.tasks.images.data.unreadable import Replaced, Unreadable
from kdtool.tasks.images.data.views import Views
from kdtool.tasks.images.data.workers import At, Workers
from kdtool.tasks.images.options import Data

if TYPE_CHECKING:
    from PIL.Image import Image

LANES = 256
"""Lanes at most: how many places of the data a batch mixes, and how many processes can share one."""

LANE_SHARE = 4
"""Samples of a lane in a batch at least: mixup and cutmix find their partners among them."""

WINDOW = 256
"""Samples of a shard that a lane holds, encoded, and shuffles."""


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

    def __init__(self, stream: Stream, count: int, seed: int):
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


class _LaneReader(Dataset[Any]):
    """Answers requests, in a worker: it goes on where a lane stands, or opens the shard at that place."""

    def __init__(self, lanes: Lanes, views: Views, at: At):
        self.lanes, self.views, self.shards, self.at = lanes, views, lanes.stream.shards, at
        self.held: dict[int, _Held] = {}

    def __getitem__(self, request: Request) -> tuple[Tensor, Tensor, Tensor, list[Replaced]] | str:
        """Return uint8 (count, C, S, S) pixels, (count,) classes, (count,) sample numbers, and what stands in."""
        pixels, labels, rows, replaced = [], [], [], []
        try:
            for number in range(request.first, request.first + request.count):
                window, place = self.lanes.sample(request.lane, number)
                image, label, row, instead = self._read(self._hold(request.lane, window), place)
                pixels.append(self.views.host(image, row, request.view))
                labels.append(label)
                rows.append(row)
                replaced += [instead] if instead is not None else []
        except InputError as error:
            return str(error)
        return torch.stack(pixels), torch.tensor(labels), torch.tensor(rows), replaced

    def _read(self, held: _Held, place: int) -> tuple[Image, int, int, Replaced | None]:
        """Return image, class and number of a sample; of the next in the window where it cannot be read."""
        first = int(self.lanes.stream.first[held.window.shard]) + held.window.start
        wanted, why = int(held.order[place]), ""
        self.at.note(first + wanted)
        for inside in (*range(wanted, held.window.size), *range(wanted)):
            data, label = held.samples[inside]
            try:
                image = decode_bytes(data)
            except UNREADABLE as error:
                name = self.shards.names[held.window.shard]
                why = why or f"image {held.window.start + inside} of {name} cannot be read ({error})."
                continue
            row = first + inside
            return image, label, row, Replaced(first + wanted, row, why) if why else None
        raise InputError(f"{why} Nor can any of the {held.window.size} around it.")

    def _hold(self, lane: int, window: Window) -> _Held:
        """Return the samples of a lane's window, which are read unless the lane stands there already."""
        held = self.held.get(lane)
        if held is not None and held.window == window:
            return held
        if held is not None and held.window[:2] == window[:2] and held.window.start + held.window.size == window.start:
            rest = held.rest
        else:
            rest = self.shards.read(window.shard, window.start)
        samples = [sample for _, sample in zip(range(window.size), rest, strict=False)]
        if len(samples) < window.size:
            raise InputError(
                f"the shard {self.shards.names[window.shard]} holds fewer samples than when it was counted: it was "
                "changed."
            )
        self.held[lane] = _Held(window, samples, self.lanes.order(window), rest)
        return self.held[lane]


@dataclass
class _Held:
    """A window with its samples, their shuffled order, and the rest of the shard."""

    window: Window
    samples: list[Sample]
    order: np.ndarray
    rest: Iterator[Sample]


class StreamLoader:
    """A stream's batches.

    Args:
        stream: what to read.
        views: how images become inputs.
        batch_size: samples in a global batch.
        num_classes: K, for mixed labels.
        seed: of the order.
        workers: processes that read and decode.
        device: where batches go.
        channels_last: memory layout of the inputs.
        part: (r, n): read the r-th of n parts of each batch.
        unreadable: told of images that cannot be read.
        steps: batches in an epoch, which is a part of the step budget here, not a pass over the data.

    Raises:
        InputError: a batch cannot be divided among n processes.
    """

    def __init__(
        self,
        stream: Stream,
        views: Views,
        batch_size: int,
        *,
        num_classes: int,
        seed: int,
        workers: int,
        device: torch.device,
        channels_last: bool,
        part: tuple[int, int],
        unreadable: Unreadable,
        steps: int,
    ):
        self.stream, self.views, self.device, self.steps = stream, views, device, steps
        self.batch_size, self.num_classes, self.unreadable = batch_size, num_classes, unreadable
        limit = max(1, min(LANES, batch_size // LANE_SHARE))
        lanes = next(count for count in range(limit, 0, -1) if batch_size % count == 0)
        if lanes % part[1]:
            raise InputError(
                f"a batch of {batch_size} samples of a stream is read in {lanes} lanes, which {part[1]} processes "
                f"cannot share: choose a --batch-size that is a multiple of {LANE_SHARE * part[1]}."
            )
        self.share = batch_size // lanes
        own = lanes // part[1]
        self.own = range(part[0] * own, (part[0] + 1) * own)
        # Each worker reads the same lanes all the time, so that it goes on in the shards that it has open.
        used = next(count for count in range(min(workers, own), 0, -1) if own % count == 0) if workers else 0
        self.send = Staging(device)
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        at = At(used)
        # Not pinned: they are parts of a batch, which are joined first.
        self.workers: Workers[Request] = Workers(
            _LaneReader(Lanes(stream, lanes, seed), views, at), used, False, at,
            lambda sample: f"sample {sample} of the stream",
        )  # fmt: skip
        self.placement = (
            f"streamed from {len(stream.lengths)} shards in {lanes} lanes through {used} workers, {steps} steps an "
            "epoch"
        )

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Loaded]:
        """Yield the batches of an epoch from batch ``start`` on; those before are not read."""
        numbers = range(epoch * self.steps + start, (epoch + 1) * self.steps)
        requests = [
            Request(lane, step * self.share, self.share, self._view(step)) for step in numbers for lane in self.own
        ]
        answers = self.workers.read(requests)
        for step in numbers:
            *parts, replaced = zip(*(next(answers) for _ in self.own), strict=True)
            self.unreadable.note("training", len(self.stream), [each for some in replaced for each in some])
            pixels, labels, rows = (torch.cat(each) for each in parts)
            yield self._finish(pixels, labels, rows, self._view(step))

    def _view(self, step: int) -> int:
        # Of all lanes at once: their lengths differ by one sample at most.
        passes, views = step * self.batch_size // len(self.stream), self.views.cfg.views
        return passes % views if views else passes

    def _finish(self, pixels: Tensor, labels: Tensor, rows: Tensor, view: int) -> Loaded:
        mixing = self.views.mixing
        mixed: tuple[Tensor, ...] = ()
        if mixing.on:
            # Within a lane's part of the batch, which no number of processes divides.
            at = torch.arange(len(rows))
            partner = at - at % self.share + mixing.partners(rows, view, self.share)
            weights = mixing.weights(rows, view, self.views.size)
            labels = mix_labels(labels, labels[partner], weights.double().mean((1, 2)), self.num_classes)
            mixed = partner, weights[:, None]
        changes = self.views.changes(rows, view)
        pixels, changes, labels, index, mixed = self.send((pixels, changes, labels, rows, mixed))
        images = self.views.device(pixels, rows, view, changes)
        if mixed:
            partner, share = mixed
            images = share * images + (1 - share) * images[partner]
        return Loaded(images.contiguous(memory_format=self.layout), labels, index, view, positions=rows)


def make_stream_loader(
    data: DataSet,
    cfg: Data,
    image_size: int,
    norm: tuple[Sequence[float], Sequence[float]],
    batch_size: int,
    seed: int,
    device: torch.device,
    steps: int,
    channels_last: bool = True,
    part: tuple[int, int] = (0, 1),
    interpolation: str = "bicubic",
) -> StreamLoader:
    """Return the batches of a streamed training set; arguments as for ``make_loader``."""
    assert data.stream is not None
    views = Views(
        cfg, image_size, *norm, grey=data.grey, native_size=data.native_size, train=True, interpolation=interpolation
    )
    return StreamLoader(
        data.stream, views, batch_size, num_classes=len(data.class_names), seed=seed, workers=cfg.workers,
        device=device, channels_last=channels_last, part=part,
        unreadable=data.unreadable, steps=steps,
    )  # fmt: skip
