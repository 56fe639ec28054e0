"""Loading: the same numbers from memory or streamed, with any number of workers, from any start."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kdtool.errors import InputError
from kdtool.tasks.images.data.dataset import Split
from kdtool.tasks.images.data.loader import Loaded, Loader
from kdtool.tasks.images.data.mixing import mix_labels
from kdtool.tasks.images.data.views import Views
from kdtool.tasks.images.options import Data
from kdtool.tasks.task import Reading
from tests.tasks.images.data.pictures import picture

COUNT, CLASSES = 23, 4
CPU = torch.device("cpu")


class Pictures:
    """Images that count how often they are decoded, in this process."""

    def __init__(self, count: int = 40, broken: int | None = None):
        self.count, self.broken = count, broken
        self.decoded: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> Image.Image:
        if row == self.broken:
            raise InputError(f"image {row} cannot be read: mend or remove it.")
        self.decoded.append(row)
        return picture(row, (24, 20))


def _split(images: Pictures | None = None) -> Split:
    # Rows are not positions: thinning and held-out splits leave gaps.
    rows = np.arange(COUNT, dtype=np.int64) + 10
    return Split(images or Pictures(), rows % CLASSES, rows)


def _loader(split: Split | None = None, train: bool = True, size: int = 16, **options: Any) -> Loader:
    cfg = Data(**options.pop("cfg", {}))
    views = Views(cfg, size, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), grey=False, native_size=(20, 24), train=train)
    reading = {"batch_size": 5, "seed": 3, "device": CPU, "train": train, "channels_last": False}
    reading |= {
        name: options.pop(name) for name in ("batch_size", "seed", "part", "channels_last", "device") if name in options
    }
    given = {"num_classes": CLASSES, "workers": 0, "memory_budget_gb": 1.0, **options}
    return Loader(split or _split(), views, Reading(**reading), **given)


def _all(loader: Loader, epoch: int = 0, start: int = 0) -> list[Loaded]:
    return list(loader.epoch(epoch, start))


def _same(one: list[Loaded], other: list[Loaded]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a.inputs, b.inputs) and torch.equal(a.labels, b.labels) and torch.equal(a.index, b.index)
        for a, b in zip(one, other, strict=True)
    )


FIXED = {"crop": "pad", "color_jitter": 0.3, "erase": 0.5, "mixup": 0.4, "cutmix": 1.0}
ANEW = {"crop": "resized", "auto_augment": "rand-m9-mstd0.5", "flip": 0.5, "mixup": 0.4}


# --- what a batch is --------------------------------------------------------------------------------------------------


def test_evaluation_reads_all_in_order() -> None:
    loader = _loader(train=False, cfg=FIXED)
    batches = _all(loader, epoch=7)
    assert [len(b.index) for b in batches] == [5, 5, 5, 5, 3]
    assert loader.steps == 5
    assert torch.cat([b.index for b in batches]).tolist() == list(range(COUNT))
    labels = torch.cat([b.labels for b in batches])
    assert labels.dtype == torch.int64
    assert labels.tolist() == [row % CLASSES for row in range(10, 10 + COUNT)]
    assert all(b.inputs.dtype == torch.float32 and b.inputs.is_contiguous() for b in batches)
    assert _same(batches, _all(loader, epoch=0))
    views, image = loader.views, picture(10, (24, 20))
    expected = views.device(views.host(image, 10, 0)[None], torch.tensor([10]), 0)
    assert torch.equal(batches[0].inputs[:1], expected)


def test_training_sees_each_sample_once_and_drops_a_short_last_batch() -> None:
    loader = _loader()
    batches = _all(loader)
    assert loader.steps == len(batches) == 4
    index = torch.cat([b.index for b in batches]).tolist()
    assert len(set(index)) == 20
    assert index != sorted(index)
    for batch in batches:
        assert batch.labels.tolist() == [(i + 10) % CLASSES for i in batch.index.tolist()]


def test_a_short_batch_is_kept_where_it_is_the_only_one() -> None:
    loader = _loader(batch_size=64)
    assert loader.steps == 1
    assert len(_all(loader)[0].index) == COUNT


def test_epochs_differ_in_order_and_in_views() -> None:
    loader = _loader()
    first, second = _all(loader, 0), _all(loader, 1)
    assert torch.cat([b.index for b in first]).tolist() != torch.cat([b.index for b in second]).tolist()

    def inputs(batches: list[Loaded], index: int) -> torch.Tensor:
        return next(b.inputs[b.index == index] for b in batches if index in b.index)

    common = set(torch.cat([b.index for b in first]).tolist()) & set(torch.cat([b.index for b in second]).tolist())
    assert any(not torch.equal(inputs(first, i), inputs(second, i)) for i in common)


def test_the_seed_decides_the_order_and_not_the_views() -> None:
    def by_index(seed: int) -> tuple[list[int], dict[int, torch.Tensor]]:
        batches = _all(_loader(seed=seed, batch_size=COUNT))
        return batches[0].index.tolist(), dict(zip(batches[0].index.tolist(), batches[0].inputs, strict=True))

    (order, one), (other_order, other) = by_index(0), by_index(1)
    assert order != other_order
    assert all(torch.equal(one[i], other[i]) for i in range(COUNT))


def test_views_come_round_after_k_epochs_in_a_new_order() -> None:
    def by_index(epoch: int) -> dict[int, torch.Tensor]:
        batch = _all(_loader(batch_size=COUNT, cfg={"views": 2}), epoch)[0]
        return dict(zip(batch.index.tolist(), batch.inputs, strict=True))

    zero, one, two = by_index(0), by_index(1), by_index(2)
    assert list(zero) != list(two)
    assert all(torch.equal(zero[i], two[i]) for i in range(COUNT))
    assert any(not torch.equal(zero[i], one[i]) for i in range(COUNT))


def test_channels_last_changes_layout_only() -> None:
    plain, last = _all(_loader()), _all(_loader(channels_last=True))
    assert _same(plain, last)
    assert last[0].inputs.is_contiguous(memory_format=torch.channels_last)


def test_a_sample_does_not_depend_on_the_batch_it_is_in() -> None:
    def by_index(size: int) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        batches = _all(_loader(batch_size=size, cfg=FIXED))
        return {i: (x, y) for b in batches for i, x, y in zip(b.index.tolist(), b.inputs, b.labels, strict=True)}

    one, many = by_index(1), by_index(COUNT)
    assert len(one) == len(many) == COUNT
    for i in range(COUNT):
        assert torch.equal(one[i][0], many[i][0])
        assert torch.equal(one[i][1], many[i][1])


# --- where the pixels come from ---------------------------------------------------------------------------------------


def test_memory_streaming_and_workers_give_the_same_bits() -> None:
    memory = _loader(cfg=FIXED)
    assert memory.in_memory
    for epoch in (0, 1):
        expected = _all(memory, epoch)
        assert _same(_all(_loader(cfg=FIXED, memory_budget_gb=0.0), epoch), expected)
    streamed = _loader(cfg=FIXED, memory_budget_gb=0.0, workers=2)
    assert not streamed.in_memory
    for epoch in (0, 1):
        assert _same(_all(streamed, epoch), _all(memory, epoch))


def test_workers_give_the_same_bits_where_every_view_is_decoded_anew() -> None:
    alone, workers = _loader(cfg=ANEW), _loader(cfg=ANEW, workers=2)
    assert not alone.in_memory
    for epoch in (0, 3):
        expected = _all(alone, epoch)
        torch.rand(7)
        assert _same(_all(workers, epoch), expected)


@pytest.mark.parametrize(
    "options", [{"cfg": FIXED}, {"cfg": FIXED, "memory_budget_gb": 0.0}, {"cfg": ANEW, "workers": 2}]
)
@pytest.mark.parametrize("start", [0, 2, 4])
def test_an_epoch_goes_on_from_any_batch(options: dict[str, Any], start: int) -> None:
    assert _same(_all(_loader(**options), 1, start), _all(_loader(**options), 1)[start:])


def test_going_on_does_not_decode_what_was_skipped() -> None:
    images = Pictures()
    loader = _loader(_split(images), memory_budget_gb=0.0)
    last = _all(loader, 0, start=3)[0]
    assert sorted(images.decoded) == sorted((last.index + 10).tolist())


def test_memory_decodes_each_image_once_for_all_splits_that_share_it() -> None:
    images = Pictures()
    split = _split(images)
    train, val = split.take(np.arange(15)), split.take(np.arange(15, COUNT))
    for _ in range(2):
        for epoch in (0, 1):
            _all(_loader(train, cfg=FIXED), epoch)
        _all(_loader(val, train=False))
        _all(_loader(train, train=False))
    assert sorted(images.decoded) == list(range(10, 10 + COUNT))


def test_placement_says_why() -> None:
    assert "memory" in _loader().placement
    assert "memory_budget_gb" in _loader(memory_budget_gb=0.0).placement
    assert "2 workers" in _loader(memory_budget_gb=0.0, workers=2).placement
    assert "anew" in _loader(cfg=ANEW).placement


def test_loading_draws_nothing_from_the_runs_generators() -> None:
    for options in ({}, {"cfg": ANEW}, {"cfg": ANEW, "workers": 2}):
        torch.manual_seed(0)
        np.random.seed(0)
        _all(_loader(**options))
        after = torch.rand(3), np.random.rand(3)
        torch.manual_seed(0)
        np.random.seed(0)
        assert torch.equal(torch.rand(3), after[0])
        assert (np.random.rand(3) == after[1]).all()


def test_an_epoch_left_early_leaves_the_next_one_whole() -> None:
    loader = _loader(cfg=ANEW, workers=2)
    next(iter(loader.epoch(0)))
    assert _same(_all(loader, 1), _all(_loader(cfg=ANEW), 1))


def test_samples_without_a_label_keep_minus_one() -> None:
    split = _split()
    split.labels[::2] = -1
    batches = _all(_loader(split, train=False))
    assert torch.cat([b.labels for b in batches]).tolist() == split.labels.tolist()


# --- mixing -----------------------------------------------------------------------------------------------------------


def test_mixing_blends_the_same_view_of_the_partner() -> None:
    loader = _loader(batch_size=COUNT, cfg={"mixup": 1.0, "crop": "pad"})
    plain = _loader(batch_size=COUNT, cfg={"crop": "pad"})
    mixed, clean = _all(loader, 5)[0], _all(plain, 5)[0]
    assert torch.equal(mixed.index, clean.index)
    by_index = dict(zip(clean.index.tolist(), clean.inputs, strict=True))
    rows = mixed.index + 10
    partners = loader.views.mixing.partners(rows, 5, COUNT)
    share = loader.views.mixing.weights(rows, 5, 1)[:, 0, 0]
    for at, (i, partner) in enumerate(zip(mixed.index.tolist(), partners.tolist(), strict=True)):
        expected = share[at] * by_index[i] + (1 - share[at]) * by_index[partner]
        assert torch.allclose(mixed.inputs[at], expected, atol=1e-6)
    labels = mix_labels((mixed.index + 10) % CLASSES, (partners + 10) % CLASSES, share, CLASSES)
    assert mixed.labels.shape == (COUNT, CLASSES)
    assert torch.allclose(mixed.labels, labels, atol=1e-6)
    assert torch.allclose(mixed.labels.sum(1), torch.ones(COUNT))


def test_cutmixs_labels_are_the_shares_of_the_pixels() -> None:
    loader = _loader(batch_size=COUNT, cfg={"cutmix": 1.0, "crop": "none", "flip": 0.0})
    batch = _all(loader)[0]
    rows = batch.index + 10
    partners = loader.views.mixing.partners(rows, 0, COUNT)
    own = _all(_loader(batch_size=COUNT, cfg={"crop": "none", "flip": 0.0}))[0].inputs
    kept = (batch.inputs == own).all(1).flatten(1).double().mean(1)
    same = (rows % CLASSES) == ((partners + 10) % CLASSES)
    for at in range(COUNT):
        if not same[at] and partners[at] != batch.index[at]:
            assert batch.labels[at, rows[at] % CLASSES].item() == pytest.approx(kept[at].item(), abs=0.01)


# --- trouble ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"memory_budget_gb": 0.0}, {"memory_budget_gb": 0.0, "workers": 2}])
def test_a_broken_image_is_one_clear_message(options: dict[str, Any]) -> None:
    loader = _loader(_split(Pictures(broken=20)), train=False, **options)
    with pytest.raises(InputError) as caught:
        _all(loader)
    assert str(caught.value).startswith("1 of 23")
    assert "image 20 cannot be read. Mend or remove" in str(caught.value)


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("sampler", ["random", "class-uniform"])
def test_processes_share_the_very_batches_of_one(train: bool, sampler: str) -> None:
    given: dict[str, Any] = {"batch_size": 6, "train": train, "cfg": {"mixup": 0.2} if train else {}}
    given["per_class"] = 2 if sampler == "class-uniform" and train else None
    whole = _all(_loader(**given), epoch=1)
    parts = [_all(_loader(**given, part=(number, 3)), epoch=1) for number in range(3)]
    if train:
        joined = [
            (torch.cat([b.index for b in each]), torch.cat([b.inputs for b in each]))
            for each in zip(*parts, strict=True)
        ]
    else:  # read in order, whole batches go round
        count = len(whole)
        joined = [(b.index, b.inputs) for n in range(count) for b in [parts[n % 3][n // 3]]]
    assert len(joined) == len(whole)
    for batch, (index, inputs) in zip(whole, joined, strict=True):
        assert torch.equal(batch.index, index)
        assert torch.equal(batch.inputs, inputs)


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be shared by 4 processes"):
        _loader(batch_size=6, part=(0, 4))
