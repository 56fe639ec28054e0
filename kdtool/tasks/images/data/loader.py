"""A split in batches: from memory where it fits, else streamed through workers; the same numbers either way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from kdtool.engine import tree
from kdtool.engine.job import Loaded
from kdtool.engine.staging import Staging
from kdtool.errors import InputError
from kdtool.tasks.common.order import Order, class_plan
from kdtool.tasks.common.workers import At, Workers
from kdtool.tasks.images.data.changes import Changes
from kdtool.tasks.images.data.dataset import DataSet, Images, Split, reader_of
from kdtool.tasks.images.data.mixing import mix_labels
from kdtool.tasks.images.data.unreadable import THREADS, Pool, Replaced
from kdtool.tasks.images.data.views import Views
from kdtool.tasks.images.options import Data
from kdtool.tasks.task import Reading

DEVICE_SHARE = 0.25
"""Kept pixels live on the GPU where they take no more than this share of its free memory, else beside it."""


class Loader:
    """A split's batches; which samples form a batch, and their views, are functions of the epoch.

    Args:
        split: what to read.
        views: how images become inputs.
        reading: how the split is read.
        num_classes: how many labels there are, for mixed ones.
        workers: processes that decode, where images are streamed.
        memory_budget_gb: images are kept decoded where they need no more.
        per_class: as for ``Order``.

    Raises:
        InputError: a batch cannot be divided among the processes.
    """

    def __init__(
        self,
        split: Split,
        views: Views,
        reading: Reading,
        *,
        num_classes: int,
        workers: int,
        memory_budget_gb: float,
        per_class: int | None = None,
    ):
        self.split, self.views, self.device = split, views, reading.device
        self.num_classes, self.workers = num_classes, workers
        self.order = Order(split.labels, reading, per_class)
        self.steps = self.order.steps
        self.layout = torch.channels_last if reading.channels_last else torch.contiguous_format
        self.labels = torch.from_numpy(split.labels)
        self.rows = torch.from_numpy(split.rows)
        self.size = len(split) * views.channels * views.size**2
        self.in_memory = views.fixed and self.size <= memory_budget_gb * 1e9
        self.send = Staging(self.device, pieces=4)  # of two batches, pixels and what mixes them
        self._pixels: Tensor | None = None
        self._stream: Workers[_Step] | None = None
        self.placement = self._explain(memory_budget_gb)

    @property
    def decides(self) -> dict[str, Any]:
        """What the inputs follow from, besides the samples and the view, by the recipe's names."""
        reader = reader_of(self.split.images)
        return self.views.decides | ({} if reader is None else {"reader": reader})

    def _explain(self, budget: float) -> str:
        if self.in_memory:
            return f"decoded once and kept in memory ({self.size / 1e6:.0f} MB)"
        why = f"{self.size / 1e9:.1f} GB is over data.memory_budget_gb={budget:g}" if self.views.fixed else (
            "every view is cropped or augmented anew"
        )  # fmt: skip
        return f"streamed through {self.workers} workers ({why})" if self.workers else f"decoded as needed ({why})"

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Loaded]:
        """Yield the batches of an epoch from batch ``start`` on; those before are not decoded."""
        cfg = self.views.cfg
        view = (epoch % cfg.views if cfg.views else epoch) if self.views.train else 0
        return self.view(view, self.order.batches(epoch)[start:])

    def view(self, view: int, batches: list[Tensor]) -> Iterator[Loaded]:
        """Yield one view of samples, each batch given by its positions in the split."""
        if not batches:
            return
        mixing, sizes = self.views.mixing, [len(b) for b in batches]
        partners = [mixing.partners(self.rows[b], view, len(self.split)) if mixing.on else None for b in batches]
        needed = [b if p is None else torch.cat([b, p]) for b, p in zip(batches, partners, strict=True)]
        pixels = self._from_memory(needed) if self.in_memory else self._streamed(needed, view)
        # What a step would copy to the device, in one copy for all of them: each makes it wait.
        whole, read = torch.cat(batches), torch.cat(needed)
        index, labels = whole.to(self.device).split(sizes), self.labels[whole].to(self.device).split(sizes)
        changes = tree.to(self.views.changes(self.rows[read], view), self.device).split([len(b) for b in needed])
        columns = zip(batches, partners, index, labels, changes, pixels, strict=True)
        for positions, partner, own, own_labels, change, decoded in columns:
            if partner is None:
                images = self.views.device(decoded, self.rows[positions], view, change)
            else:
                images, own_labels = self._mixed(positions, partner, decoded, view, change)
            laid_out = images.contiguous(memory_format=self.layout)
            yield Loaded(laid_out, own_labels, own, view, positions=positions)

    def _mixed(
        self, index: Tensor, partner: Tensor, decoded: Tensor, view: int, changes: Changes
    ) -> tuple[Tensor, Tensor]:
        """Return the images and (B, K) labels of samples and their partners, whose pixels come one after the other."""
        views, own = self.views, len(index)
        rows = self.rows[torch.cat([index, partner])]
        images = views.device(decoded, rows, view, changes)
        weights = views.mixing.weights(rows[:own], view, views.size)
        shares = weights.double().mean((1, 2))
        labels = mix_labels(self.labels[index], self.labels[partner], shares, self.num_classes)
        share, labels = self.send((weights[:, None], labels))
        return share * images[:own] + (1 - share) * images[own:], labels

    def _from_memory(self, batches: list[Tensor]) -> Iterator[Tensor]:
        if self._pixels is None:
            self._pixels, self._at = self._decode_all()
        place = self._pixels.device
        for at in self._at[torch.cat(batches)].to(place).split([len(b) for b in batches]):
            chosen = self._pixels.index_select(0, at)
            yield self.send(chosen).permute(0, 3, 1, 2)

    def _decode_all(self) -> tuple[Tensor, Tensor]:
        """Return pixels (N, S, S, C), and for each position of the split where in them its sample is."""
        shared: _Pixels = self.split.decoded.setdefault(self.views.pixels_key, _Pixels(self.split.images))
        pixels = shared.get(self.split.rows, self.views, self.split.pool())
        if self.device.type == "cpu" or (
            self.device.type == "cuda" and self.size > torch.cuda.mem_get_info(self.device)[0] * DEVICE_SHARE
        ):
            return pixels, self.rows  # no copy: splits of the same images share them
        return pixels[self.rows].to(self.device), torch.arange(len(self.rows))

    def _streamed(self, batches: list[Tensor], view: int) -> Iterator[Tensor]:
        if self._stream is None:
            at, images = At(self.workers), self.split.images
            decoder = _Decoder(images, self.split.rows, self.views, self.split.pool(), at)
            self._stream = Workers(
                decoder, self.workers, self.device.type == "cuda", at, lambda row: _name(images, row), "image"
            )
        for decoded, replaced in self._stream.read([(batch, view) for batch in batches]):
            self.split.pool().note(replaced)
            yield self.send(decoded)


def make_loader(
    data: DataSet,
    split: Split,
    cfg: Data,
    image_size: int,
    norm: tuple[Sequence[float], Sequence[float]],
    reading: Reading,
    interpolation: str = "bicubic",
) -> Loader:
    """Return a split's batches as a recipe wants them.

    Args:
        data: what the split is of.
        split: what to read.
        cfg: the recipe's section ``data``.
        image_size: pixels a side.
        norm: mean and std, per channel.
        reading: how the split is read.
        interpolation: how images are resized.
    """
    return Loader(
        split,
        Views(
            cfg,
            image_size,
            *norm,
            grey=data.grey,
            native_size=data.native_size,
            train=reading.train,
            interpolation=interpolation,
        ),
        reading,
        num_classes=data.label_count,
        workers=cfg.workers,
        memory_budget_gb=cfg.memory_budget_gb,
        per_class=class_plan(cfg),
    )


class _Pixels:
    """The pixels of a source's images, each decoded at most once, for all splits that share them."""

    def __init__(self, images: Images):
        self.images = images
        self.done = np.zeros(len(images), dtype=bool)
        self.pixels: Tensor | None = None

    def get(self, rows: np.ndarray, views: Views, pool: Pool) -> Tensor:
        """Return uint8 (len(images), S, S, C), decoded at least at these rows."""
        if self.pixels is None:
            # Untouched pages cost nothing, so rows that no split wants take no memory.
            shape = (len(self.images), views.size, views.size, views.channels)
            self.pixels = torch.empty(shape, dtype=torch.uint8)
        pixels, missing = self.pixels, np.unique(rows[~self.done[rows]])

        def decode(row: int) -> Replaced | None:
            image, replaced = pool.read(self.images, row, views.enough(row, 0))
            pixels[row] = views.host(image, row, 0).permute(1, 2, 0)
            return replaced

        with ThreadPoolExecutor(THREADS) as threads:
            for replaced in threads.map(decode, missing.tolist()):
                if replaced is not None:
                    pool.note([replaced])
        self.done[missing] = True
        return pixels


_Step = tuple[Tensor, int]
"""Positions in the split, and the view."""


class _Decoder(Dataset[Any]):
    """Decodes a batch; an error in what the user gave comes back as its message, without a worker's traceback."""

    def __init__(self, images: Images, rows: np.ndarray, views: Views, pool: Pool, at: At):
        self.images, self.rows, self.views, self.pool, self.at = images, rows, views, pool, at

    def __getitem__(self, step: _Step) -> tuple[Tensor, list[Replaced]] | str:
        positions, view = step
        pixels, instead = [], []
        for row in self.rows[positions.numpy()].tolist():
            self.at.note(row)
            try:
                image, replaced = self.pool.read(self.images, row, self.views.enough(row, view))
            except InputError as error:
                return str(error)
            pixels.append(self.views.host(image, row, view))
            instead += [replaced] if replaced is not None else []
        return torch.stack(pixels), instead


def _name(images: Images, row: int) -> str:
    """Return an image's name for messages: its file's, where it has one."""
    paths = getattr(images, "paths", None)
    return f"image {paths[row] if paths is not None else row}"
