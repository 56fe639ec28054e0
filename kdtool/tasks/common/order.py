"""The order of samples in an epoch: a function of the seed and the epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kdtool.errors import InputError
from kdtool.randomness import epoch_order, key_of

if TYPE_CHECKING:
    from kdtool.tasks.task import Reading


def class_uniform_order(labels: np.ndarray, seed: int, epoch: int, batch_size: int, per_class: int) -> np.ndarray:
    """Return an order whose batches hold ``per_class`` samples of each of a few random classes.

    Peng et al., "Correlation Congruence for Knowledge Distillation", ICCV 2019, section 3.4: each batch has P classes
    of K samples, so that correlations within a class are seen too. Classes are drawn anew for every batch; each
    class's samples come in a random order of their own and start over when they are used up. Samples without a label
    form one further class.

    Args:
        labels: (N,) classes.
        seed, epoch: what the order follows from.
        batch_size: P · K; what does not divide goes to one further class.
        per_class: K.
    """
    draw = np.random.Generator(np.random.Philox(key_of("class-uniform", seed, epoch)))
    queues = {label: draw.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)}
    used = dict.fromkeys(queues, 0)
    order: list[int] = []
    for _ in range(max(1, len(labels) // batch_size)):
        room, classes = batch_size, list(draw.permutation(list(queues)))
        while room:
            label = classes.pop() if classes else draw.choice(list(queues))
            for _ in range(min(per_class, room)):
                queue = queues[label]
                order.append(int(queue[used[label] % len(queue)]))
                used[label] += 1
            room -= min(per_class, room)
    return np.array(order, dtype=np.int64)


def balanced_order(labels: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Return an order of as many samples in which every class comes equally often, to within one.

    A class's samples come in a random order of its own and start over when they are used up; of a class with more
    samples than its share some wait for a later epoch. Samples without a label come once each.

    Args:
        labels: (N,) classes, -1 for none.
        seed, epoch: what the order follows from.
    """
    draw = np.random.Generator(np.random.Philox(key_of("balanced", seed, epoch)))
    classes = draw.permutation(np.unique(labels[labels >= 0]))
    slots, parts = int((labels >= 0).sum()), [np.flatnonzero(labels < 0)]
    for number, label in enumerate(classes):
        share = slots // len(classes) + (number < slots % len(classes))
        parts.append(np.resize(draw.permutation(np.flatnonzero(labels == label)), share))
    return draw.permutation(np.concatenate(parts)).astype(np.int64)


def random_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """Return a permutation of all samples."""
    return epoch_order(seed, epoch, count)


BALANCED = 0
"""Stands in the place of a number of samples of a class in a row: every class equally often over an epoch."""


def class_plan(data: Any) -> int | None:
    """Return what a recipe's section ``data`` wants of classes, as ``Order`` takes it."""
    return {"random": None, "balanced": BALANCED, "class-uniform": data.samples_per_class}[data.sampler]  # type: ignore[no-any-return]


BUCKET = 32
"""Batches whose samples are sorted by length together."""


class Order:
    """Which samples of a split form a batch: a function of the epoch.

    Args:
        labels: (N,) int64 classes of the samples, -1 for none.
        reading: how the split is read.
        per_class: samples of a class in a row (class-uniform sampling); ``BALANCED``; None: a random order.
        lengths: (N,) how long each sample is; an order without rows then brings samples of like length into one batch.

    Attributes:
        batch_size: samples in a whole batch; never more than there are.
        steps: batches in an epoch, over all processes.

    Raises:
        InputError: a batch cannot be divided among the processes.
    """

    def __init__(
        self, labels: np.ndarray, reading: Reading, per_class: int | None = None, lengths: np.ndarray | None = None
    ):
        self.labels, self.reading, self.per_class, self.lengths = labels, reading, per_class, lengths
        self.batch_size = min(reading.batch_size, len(labels))
        parts = reading.part[1]
        if reading.train and self.batch_size % parts:
            raise InputError(
                f"a batch of {self.batch_size} samples cannot be shared by {parts} processes: choose a --batch-size "
                f"that {parts} divides and that is not larger than the training set."
            )
        count = len(labels)
        self.steps = count // self.batch_size if reading.train else -(-count // self.batch_size)

    def batches(self, epoch: int) -> list[Tensor]:
        """Return this process's batches of an epoch, each as positions in the split.

        To train on, samples are shuffled, a short last batch is left out, and each process takes its share of every
        batch. Else they come in order, and each process takes its share of the batches.
        """
        (number, parts), whole = self.reading.part, self.whole(epoch)
        if not self.reading.train:
            return whole[number::parts]
        size = self.batch_size // parts
        return [batch[number * size : (number + 1) * size] for batch in whole]

    def whole(self, epoch: int) -> list[Tensor]:
        """Return the batches of an epoch before they are shared among processes."""
        order = torch.from_numpy(self._order(epoch))
        return [order[step * self.batch_size : (step + 1) * self.batch_size] for step in range(self.steps)]

    def _order(self, epoch: int) -> np.ndarray:
        if not self.reading.train:
            return np.arange(len(self.labels))
        if not self.per_class:
            seed = self.reading.seed
            even = self.per_class == BALANCED
            order = balanced_order(self.labels, seed, epoch) if even else random_order(len(self.labels), seed, epoch)
            return order if self.lengths is None else self._bucketed(order, self.lengths, epoch)
        return class_uniform_order(self.labels, self.reading.seed, epoch, self.batch_size, self.per_class)

    def _bucketed(self, order: np.ndarray, lengths: np.ndarray, epoch: int) -> np.ndarray:
        """Return an order whose batches hold samples of like length, the batches themselves in a random order."""
        whole = order[: self.steps * self.batch_size]
        chunk = BUCKET * self.batch_size
        parts = [whole[start : start + chunk] for start in range(0, len(whole), chunk)]
        sorted_ = np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in parts])
        draw = np.random.Generator(np.random.Philox(key_of("buckets", self.reading.seed, epoch)))
        turns: np.ndarray = sorted_.reshape(self.steps, self.batch_size)[draw.permutation(self.steps)].reshape(-1)
        return turns
