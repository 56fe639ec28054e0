"""Batches of a stream of images: which form one, and how each looks, follow from the step alone.

See ``kdtool.tasks.common.streams.lanes``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from kdtool.engine.job import Loaded
from kdtool.engine.staging import Staging
from kdtool.errors import InputError
from kdtool.tasks.common.streams.lanes import Lanes, Plan, Request
from kdtool.tasks.common.streams.stream import Stream
from kdtool.tasks.common.streams.windows import Held, Windows
from kdtool.tasks.common.workers import At, Workers
from kdtool.tasks.images.data.dataset import DataSet
from kdtool.tasks.images.data.decode import UNREADABLE, decode_bytes
from kdtool.tasks.images.data.mixing import mix_labels
from kdtool.tasks.images.data.shards import Sample
from kdtool.tasks.images.data.unreadable import Replaced, Unreadable
from kdtool.tasks.images.data.views import Views
from kdtool.tasks.images.options import Data

if TYPE_CHECKING:
    from PIL.Image import Image


class _LaneReader(Dataset[Any]):
    """Answers requests, in a worker."""

    def __init__(self, lanes: Lanes, stream: Stream[Sample], views: Views, at: At):
        self.windows, self.views, self.names, self.at = Windows(lanes, stream), views, stream.shards.names, at

    def __getitem__(self, request: Request) -> tuple[Tensor, Tensor, Tensor, list[Replaced]] | str:
        """Return uint8 (count, C, S, S) pixels, (count,) classes, (count,) sample numbers, and what stands in."""
        pixels, labels, rows, replaced = [], [], [], []
        try:
            for held, wanted in self.windows.of(request):
                image, label, row, instead = self._read(held, wanted)
                pixels.append(self.views.host(image, row, request.view))
                labels.append(label)
                rows.append(row)
                replaced += [instead] if instead is not None else []
        except InputError as error:
            return str(error)
        return torch.stack(pixels), torch.tensor(labels), torch.tensor(rows), replaced

    def _read(self, held: Held[Sample], wanted: int) -> tuple[Image, int, int, Replaced | None]:
        """Return image, class and number of a sample; of the next in the window where it cannot be read."""
        first, why = self.windows.first(held), ""
        self.at.note(first + wanted)
        for inside in (*range(wanted, held.window.size), *range(wanted)):
            data, label = held.samples[inside]
            try:
                image = decode_bytes(data)
            except UNREADABLE as error:
                name = self.names[held.window.shard]
                why = why or f"image {held.window.start + inside} of {name} cannot be read ({error})."
                continue
            row = first + inside
            return image, label, row, Replaced(first + wanted, row, why) if why else None
        raise InputError(f"{why} Nor can any of the {held.window.size} around it.")


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
        stream: Stream[Sample],
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
        self.stream, self.views, self.steps, self.num_classes = stream, views, steps, num_classes
        self.unreadable = unreadable
        self.plan = Plan(stream, batch_size, part, workers, steps, views.cfg.views)
        self.placement = self.plan.placement
        self.send = Staging(device)
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        at = At(self.plan.workers)
        # Not pinned: they are parts of a batch, which are joined first.
        self.workers: Workers[Request] = Workers(
            _LaneReader(Lanes(stream, self.plan.lanes, seed), stream, views, at), self.plan.workers, False, at,
            lambda sample: f"sample {sample} of the stream", "image",
        )  # fmt: skip

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Loaded]:
        """Yield the batches of an epoch from batch ``start`` on; those before are not read."""
        numbers = self.plan.numbers(epoch, start)
        answers = self.workers.read(self.plan.requests(numbers))
        for step in numbers:
            *parts, replaced = zip(*(next(answers) for _ in self.plan.own), strict=True)
            self.unreadable.note("training", len(self.stream), [each for some in replaced for each in some])
            pixels, labels, rows = (torch.cat(each) for each in parts)
            yield self._finish(pixels, labels, rows, self.plan.view(step))

    def _finish(self, pixels: Tensor, labels: Tensor, rows: Tensor, view: int) -> Loaded:
        mixing = self.views.mixing
        mixed: tuple[Tensor, ...] = ()
        if mixing.on:
            # Within a lane's part of the batch, which no number of processes divides.
            at = torch.arange(len(rows))
            partner = at - at % self.plan.share + mixing.partners(rows, view, self.plan.share)
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
