"""Every random choice is a function of what it belongs to: equal on every machine, independent across purposes."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from kdtool.randomness import epoch_order, hashed, key_of, seed_torch, seeded_libraries, uniforms

ROWS = torch.arange(20_000)


def test_keys_are_pinned_and_tell_types_and_order_apart() -> None:
    # Caches, splits and resumed runs outlive a process: these numbers may never change.
    assert key_of("flip", 0, 1) == 3972659557514078316
    keys = {key_of(1, 2), key_of(2, 1), key_of("1", 2), key_of("12"), key_of(12)}
    assert len(keys) == 5
    assert all(0 <= key < 2**63 for key in keys)


def test_uniforms_and_orders_are_pinned() -> None:
    found = uniforms(torch.tensor([0, 1, 2**40]), "flip", 0, 3)
    assert found.dtype == torch.float64
    assert found.tolist() == [0.36319896238352267, 0.02303090140565267, 0.4774105597089202]
    assert epoch_order(0, 0, 8).tolist() == [2, 4, 7, 5, 3, 1, 0, 6]


def test_hashing_is_splitmix64_in_wrapping_arithmetic() -> None:
    mask, golden = 2**64 - 1, 0x9E3779B97F4A7C15

    def reference(key: int, sample: int) -> int:
        x = (sample * golden + key) & mask
        for _ in range(2):
            x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & mask
            x = ((x ^ x >> 27) * 0x94D049BB133111EB) & mask
            x = ((x ^ x >> 31) + golden) & mask
        return x

    samples = [0, 1, -1, 12345, 2**62]
    found = hashed(987654321, torch.tensor(samples)).tolist()
    assert [number & mask for number in found] == [reference(987654321, sample) for sample in samples]


@pytest.mark.parametrize("purpose", ["flip", "shift x"])
def test_uniforms_fill_the_unit_interval_evenly(purpose: str) -> None:
    drawn = uniforms(ROWS, purpose, 0, 0).numpy()
    assert drawn.min() >= 0
    assert drawn.max() < 1
    counts = np.histogram(drawn, bins=20, range=(0, 1))[0]
    # chi-square with 19 degrees of freedom: 43.8 is its 99.9% point.
    assert ((counts - 1000) ** 2 / 1000).sum() < 43.8


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(uniforms(ROWS, "other", 0, 0), id="purpose"),
        pytest.param(uniforms(ROWS, "flip", 1, 0), id="seed"),
        pytest.param(uniforms(ROWS, "flip", 0, 1), id="view"),
        pytest.param(uniforms(ROWS + 1, "flip", 0, 0), id="next row"),
    ],
)
def test_uniforms_of_other_purposes_seeds_views_and_rows_do_not_correlate(other: torch.Tensor) -> None:
    drawn = uniforms(ROWS, "flip", 0, 0)
    assert abs(np.corrcoef(drawn.numpy(), other.numpy())[0, 1]) < 4 / len(ROWS) ** 0.5


def test_one_sample_draws_the_same_alone_as_among_many_and_in_any_shape() -> None:
    many = uniforms(ROWS, "flip", 5, 7)
    assert uniforms(ROWS[123:124], "flip", 5, 7)[0] == many[123]
    assert torch.equal(uniforms(ROWS.view(100, 200), "flip", 5, 7).flatten(), many)
    assert torch.equal(uniforms(ROWS.flip(0), "flip", 5, 7), many.flip(0))


def test_an_epochs_order_is_a_permutation_of_its_own() -> None:
    first, again, other = epoch_order(0, 0, 500), epoch_order(0, 0, 500), epoch_order(0, 1, 500)
    assert sorted(first) == list(range(500))
    assert (first == again).all()
    assert (first == other).mean() < 0.05
    assert (first == epoch_order(1, 0, 500)).mean() < 0.05


def test_libraries_are_seeded_by_what_it_is_for_and_left_as_they_were() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    seed_torch("outside")
    random.seed(1)
    np.random.seed(1)
    before = draw()
    seed_torch("outside")
    random.seed(1)
    np.random.seed(1)
    with seeded_libraries("augment", 0, 0, 17):
        one = draw()
    assert draw() == before
    with seeded_libraries("augment", 0, 0, 17):
        assert draw() == one
    with seeded_libraries("augment", 0, 0, 18):
        assert draw() != one


def test_libraries_are_restored_when_what_they_do_fails() -> None:
    def fail() -> None:
        with seeded_libraries("x"):
            random.random()
            raise ZeroDivisionError

    random.seed(1)
    state = random.getstate()
    with pytest.raises(ZeroDivisionError):
        fail()
    assert random.getstate() == state
