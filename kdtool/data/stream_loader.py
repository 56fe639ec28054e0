"""Batches of a stream: which samples form one, and how each looks, follow from the step alone.

Shards are dealt to a fixed number of lanes, and a global batch takes as many samples of each lane. Processes and their
workers share the lanes, so neither count changes a batch, and a run goes on at any step: where a lane stands then is
computed, and only its current shard is opened. Within a lane the order of shards, and of samples within windows of a
shard, is drawn anew in every pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from kdtool.data.decode import UNREADABLE, decode_bytes
from kdtool.data.loader import Loaded
from kdtool.data.mixing import mix_labels
from kdtool.data.shards import Sample
from kdtool.data.sources import DataSet
from kdtool.data.stream import Stream
from kdtool.data.views import Views
from kdtool.data.workers import Workers
from kdtool.errors import InputError
from kdtool.randomness import key_of
from kdtool.schema import Data

LANES = 64
"""Lanes at most: the largest batch share that a process can be given, and how many shards a batch mixes."""

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


@dataclass(frozen=True)
class Lanes:
    """Which sample is the n-th of a lane.

    Attributes:
        stream: what is read.
        count: lanes.
        seed: of the order.
    """

    stream: Stream
    count: int
    seed: int

    def sample(self, lane: int, number: int) -> tuple[int, int, int]:
        """Return (pass, shard, position in the shard's shuffled order) of a lane's ``number``-th sample."""
        shards = np.arange(lane, len(self.stream.lengths), self.count)
        lengths = np.array(self.stream.lengths)[shards]
        turn, left = divmod(number, int(lengths.sum()))
        order = self._draw("shards", turn, lane).permutation(len(shards))
        ends = np.cumsum(lengths[order])
        at = int(np.searchsorted(ends, left, side="right"))
        return turn, int(shards[order[at]]), left - int(ends[at] - lengths[order[at]])

    def window(self, turn: int, shard: int, number: int) -> np.ndarray:
        """Return the order of a window's samples."""
        size = min(WINDOW, self.stream.lengths[shard] - number * WINDOW)
        return self._draw("window", turn, shard, number).permutation(size)

    def _draw(self, *purpose: int | str) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key_of("stream", *purpose, self.seed)))


class _LaneReader(Dataset[Any]):
    """Answers requests, in a worker: it goes on where a lane stands, or opens the shard at that place."""

    def __init__(self, lanes: Lanes, views: Views):
        self.lanes, self.views = lanes, views
        self.open: dict[int, _Window] = {}

    def __getitem__(self, request: Request) -> tuple[Tensor, Tensor, Tensor] | str:
        """Return uint8 (count, 3, S, S) pixels, (count,) classes and (count,) sample numbers."""
        pixels, labels, rows = [], [], []
        try:
            for number in range(request.first, request.first + request.count):
                (data, label), row = self._sample(request.lane, number)
                try:
                    image = decode_bytes(data)
                except UNREADABLE as error:
                    shard, at = self._place(row)
                    raise InputError(f"image {at} of {shard} cannot be read ({error}).") from error
                pixels.append(self.views.host(image, row, request.view))
                labels.append(label)
                rows.append(row)
        except InputError as error:
            return str(error)
        return torch.stack(pixels), torch.tensor(labels), torch.tensor(rows)

    def _sample(self, lane: int, number: int) -> tuple[Sample, int]:
        turn, shard, at = self.lanes.sample(lane, number)
        wanted, slot = at // WINDOW, at % WINDOW
        window = self.open.get(lane)
        if window is None or window.place != (turn, shard, wanted):
            goes_on = window is not None and window.place == (turn, shard, wanted - 1)
            left = (
                window.left if window is not None and goes_on else self.lanes.stream.shards.read(shard, wanted * WINDOW)
            )
            order = self.lanes.window(turn, shard, wanted)
            samples = [sample for _, sample in zip(order, left, strict=False)]
            if len(samples) < len(order):
                name = self.lanes.stream.shards.names[shard]
                raise InputError(f"the shard {name} holds fewer samples than when it was counted: it was changed.")
            window = self.open[lane] = _Window((turn, shard, wanted), samples, order, left)
        inside = int(window.order[slot])
        return window.samples[inside], int(self.lanes.stream.first[shard]) + wanted * WINDOW + inside

    def _place(self, row: int) -> tuple[str, int]:
        shard = int(np.searchsorted(self.lanes.stream.first, row, side="right")) - 1
        return self.lanes.stream.shards.names[shard], row - int(self.lanes.stream.first[shard])


@dataclass
class _Window:
    """A part of a shard: (pass, shard, number), its samples, their order, and the shard's rest."""

    place: tuple[int, int, int]
    samples: list[Sample]
    order: np.ndarray
    left: Iterator[Sample]


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
        steps: int,
    ):
        self.stream, self.views, self.device, self.steps = stream, views, device, steps
        self.batch_size, self.num_classes = batch_size, num_classes
        limit = max(1, min(LANES, len(stream.lengths), batch_size // LANE_SHARE))
        lanes = next(count for count in range(limit, 0, -1) if batch_size % count == 0)
        if lanes % part[1]:
            raise InputError(
                f"a batch of {batch_size} samples from {len(stream.lengths)} shards is read in {lanes} lanes, which "
                f"{part[1]} processes cannot share: choose a --batch-size that is a multiple of "
                f"{LANE_SHARE * part[1]}, and at least {part[1]} shards."
            )
        self.share = batch_size // lanes
        own = lanes // part[1]
        self.own = range(part[0] * own, (part[0] + 1) * own)
        # Each worker reads the same lanes all the time, so that it goes on in the shards that it has open.
        used = next(count for count in range(min(workers, own), 0, -1) if own % count == 0) if workers else 0
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.workers: Workers[Request] = Workers(
            _LaneReader(Lanes(stream, lanes, seed), views), used, pin=device.type == "cuda"
        )
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
            parts = [next(answers) for _ in self.own]
            pixels, labels, rows = (torch.cat(each) for each in zip(*parts, strict=True))
            yield self._finish(pixels.to(self.device, non_blocking=True), labels, rows, self._view(step))

    def _view(self, step: int) -> int:
        passes, views = step * self.batch_size // len(self.stream), self.views.cfg.views
        return passes % views if views else passes

    def _finish(self, pixels: Tensor, labels: Tensor, rows: Tensor, view: int) -> Loaded:
        images, mixing = self.views.device(pixels, rows, view), self.views.mixing
        if mixing.on:
            # Within a lane's part of the batch, which no number of processes divides.
            at = torch.arange(len(rows))
            partner = at - at % self.share + mixing.partners(rows, view, self.share)
            weights = mixing.weights(rows, view, self.views.size)
            labels = mix_labels(labels, labels[partner], weights.double().mean((1, 2)), self.num_classes)
            share = weights[:, None].to(images.device)
            images = share * images + (1 - share) * images[partner.to(images.device)]
        return Loaded(
            images.contiguous(memory_format=self.layout),
            labels.to(self.device, non_blocking=True),
            rows.to(self.device, non_blocking=True),
            view,
        )


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
) -> StreamLoader:
    """Return the batches of a streamed training set; arguments as for ``kdtool.data.loader.make_loader``."""
    assert data.stream is not None
    views = Views(cfg, image_size, *norm, grey=data.grey, native_size=data.native_size, train=True)
    return StreamLoader(
        data.stream, views, batch_size, num_classes=len(data.class_names), seed=seed, workers=cfg.workers,
        device=device, channels_last=channels_last, part=part, steps=steps,
    )  # fmt: skip
