"""Data that are held in memory: splits, the data set, and batches whose inputs a function makes."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdtool.engine.job import Loaded
from kdtool.engine.staging import Staging
from kdtool.recipe.schema import Data
from kdtool.tasks.common.order import Order, class_plan
from kdtool.tasks.task import Reading, Split


@dataclass(frozen=True)
class HeldSplit:
    """Some of a data set's samples.

    Attributes:
        samples: of the whole data set, by row; whatever the task reads.
        labels: (N,) int64 class by position, -1 for none.
        rows: (N,) int64 row in ``samples`` by position; the number that randomness and caches know a sample by.
        extra_fingerprint: digest of samples that joined from elsewhere, None without any.
    """

    samples: Any = field(repr=False)
    labels: np.ndarray
    rows: np.ndarray
    extra_fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: np.ndarray) -> HeldSplit:
        """Return the samples at these positions."""
        return dataclasses.replace(self, labels=self.labels[positions], rows=self.rows[positions])

    def digest(self) -> str:
        """Return the sha256 of the rows, in order."""
        return hashlib.sha256(self.rows.tobytes()).hexdigest()


@dataclass(frozen=True)
class HeldData:
    """A ``kdtool.tasks.task.Dataset`` whose samples are all there, and all readable.

    Attributes:
        own_test: the source has a split to test on; else one was drawn here.
        origins: where each split is from, by "training", "validation" and "test".
    """

    name: str
    class_names: Sequence[str]
    train: HeldSplit
    val: HeldSplit | None
    test: HeldSplit
    fingerprint: str
    stream: None = None
    notes: Sequence[str] = ()
    own_test: bool = field(default=True, kw_only=True)
    origins: Mapping[str, str] = field(default_factory=dict, kw_only=True)

    def list_faults(self, folder: Path) -> None:
        """List nothing."""

    def faults(self) -> str | None:
        """Return None: every sample could be read."""
        return None


class HeldBatches:
    """A split's batches; which samples form a batch, and their views, are functions of the epoch.

    Args:
        split: what to read.
        reading: how.
        make: given the (B,) positions of a whole batch and the view, returns its inputs on the CPU.
        cfg: the recipe's section ``data``.
        decides: what inputs follow from, besides the samples and the view, by the recipe's names.
        lengths: (N,) how long each sample is, where batches to train on are to hold samples of like length.
        offsets: (N + 1,) int64, where each sample's rows begin among the split's; None: a sample is one row.
        taught: (R,) bool, the split's rows that the teachers speak of; None: all.
    """

    placement = "kept in memory"

    def __init__(
        self,
        split: Split,
        reading: Reading,
        make: Callable[[Tensor, int], Any],
        cfg: Data,
        decides: Mapping[str, Any] | None = None,
        lengths: np.ndarray | None = None,
        offsets: np.ndarray | None = None,
        taught: np.ndarray | None = None,
    ):
        per_class = class_plan(cfg) if reading.train else None
        self.reading, self.make, self.views, self.lengths = reading, make, cfg.views, lengths
        classes = split.labels if offsets is None else np.zeros(len(offsets) - 1, dtype=np.int64)
        self.order = Order(classes, reading, per_class, lengths)
        self.labels, self.offsets = torch.from_numpy(split.labels), offsets
        self.taught = None if taught is None else torch.from_numpy(taught)
        self.decides = dict(decides or {})
        self.send = Staging(reading.device)

    @property
    def steps(self) -> int:
        """Batches in an epoch, over all processes."""
        return self.order.steps

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Loaded]:
        """Yield the batches of an epoch from batch ``start`` on."""
        number, parts = self.reading.part
        if not self.reading.train:
            yield from self.view(0, self.order.batches(epoch)[start:])
            return
        # Made whole and then shared out: sequences are as long as the longest of the whole batch.
        view = epoch % self.views if self.views else epoch
        for batch in self.view(view, self.order.whole(epoch)[start:]):
            yield batch if parts == 1 else batch.split(parts)[number]

    def view(self, view: int, batches: Sequence[Tensor]) -> Iterator[Loaded]:
        """Yield one view of samples, each batch given by its positions in the split."""
        for index in batches:
            rows, counts = self._rows(index)
            more = [] if self.taught is None else [self.taught[rows]]
            inputs, labels, numbers, *taught = self.send((self.make(index, view), self.labels[rows], rows, *more))
            yield Loaded(inputs, labels, numbers, view, counts, rows, *taught)

    def _rows(self, index: Tensor) -> tuple[Tensor, list[int] | None]:
        """Return the numbers of samples' rows, and how many each has; None: one."""
        if self.offsets is None:
            return index, None
        spans = [range(self.offsets[i], self.offsets[i + 1]) for i in index.tolist()]
        return torch.tensor([row for span in spans for row in span], dtype=torch.int64), list(map(len, spans))
