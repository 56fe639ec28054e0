"""Class-uniform batches: a few classes each, so many samples of every one."""

from __future__ import annotations

import numpy as np
import pytest

from kdtool.tasks.common.order import balanced_order, class_uniform_order

LABELS = np.repeat(np.arange(10), np.arange(5, 55, 5))


@pytest.mark.parametrize(("batch", "per_class"), [(16, 4), (12, 3), (8, 1), (64, 8)])
def test_each_batch_holds_so_many_of_each_of_its_classes(batch: int, per_class: int) -> None:
    order = class_uniform_order(LABELS, 0, 0, batch, per_class)
    assert len(order) == len(LABELS) // batch * batch
    for step in range(len(order) // batch):
        index = order[step * batch : (step + 1) * batch]
        _, counts = np.unique(LABELS[index], return_counts=True)
        assert (counts == per_class).all()
        if per_class <= 5:  # the smallest class: larger shares of it repeat samples
            assert len(set(index.tolist())) == batch


def test_the_order_follows_seed_and_epoch() -> None:
    def order(*of: int) -> list[int]:
        return class_uniform_order(LABELS, *of, 16, 4).tolist()

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


def test_classes_come_equally_often_however_many_samples_they_have() -> None:
    drawn = np.concatenate([LABELS[class_uniform_order(LABELS, 0, epoch, 16, 4)] for epoch in range(60)])
    shares = np.bincount(drawn, minlength=10) / len(drawn)
    assert np.abs(shares - 0.1).max() < 0.02


def test_what_does_not_divide_goes_to_one_further_class() -> None:
    index = class_uniform_order(LABELS, 0, 0, 10, 4)[:10]
    assert sorted(np.unique(LABELS[index], return_counts=True)[1].tolist()) == [2, 4, 4]


def test_a_balanced_epoch_shows_every_class_equally_often() -> None:
    labels = np.array([0] * 90 + [1] * 7 + [2] * 5 + [-1] * 10)
    order = balanced_order(labels, seed=1, epoch=0)
    assert len(order) == len(labels)
    assert [int((labels[order] == label).sum()) for label in (0, 1, 2, -1)] == [34, 34, 34, 10]
    for label, times in ((1, {4, 5}), (2, {6, 7}), (-1, {1}), (0, {1})):
        assert set(np.unique(order[labels[order] == label], return_counts=True)[1]) <= times
    assert np.array_equal(order, balanced_order(labels, 1, 0))
    assert not np.array_equal(order, balanced_order(labels, 1, 1))
    assert not np.array_equal(order, balanced_order(labels, 2, 0))
    seen = {int(i) for epoch in range(12) for i in balanced_order(labels, 1, epoch)}
    assert seen == set(range(len(labels)))  # what waits comes in a later epoch
