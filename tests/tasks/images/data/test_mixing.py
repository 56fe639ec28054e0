"""Mixup and cutmix: partners, amounts and boxes as functions of the sample, with the papers' distributions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from kdtool.tasks.images.data.mixing import Mixing, mix_labels

ROWS = torch.arange(4000)


def test_partners_are_drawn_evenly_from_the_whole_split() -> None:
    found = Mixing(1.0, 0.0, 0).partners(ROWS, 0, 10)
    assert found.dtype == torch.int64
    counts = np.bincount(found.numpy(), minlength=10)
    assert len(counts) == 10
    assert ((counts - 400) ** 2 / 400).sum() < 27.9  # chi-square, 9 degrees, 99.9%
    assert Mixing(1.0, 0.0, 0).partners(ROWS, 0, 1).unique().tolist() == [0]


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixups_amount_follows_its_beta_distribution(alpha: float) -> None:
    weights = Mixing(alpha, 0.0, 0).weights(ROWS, 0, 2)
    assert weights.shape == (4000, 2, 2)
    assert (weights == weights[:, :1, :1]).all()
    assert weights.min() >= 0
    assert weights.max() <= 1
    assert stats.kstest(weights[:, 0, 0].double().numpy(), stats.beta(alpha, alpha).cdf).pvalue > 0.001


def test_cutmix_fills_one_box_of_its_share() -> None:
    size = 32
    weights = Mixing(0.0, 1.0, 0).weights(ROWS, 0, size)
    assert weights.unique().tolist() == [0.0, 1.0]
    shares = 1 - weights.flatten(1).mean(1)
    # With alpha 1 the box's area is uniform before the image's border clips it.
    assert 0.3 < shares.mean() < 0.45
    assert shares.max() > 0.9
    for mask in weights[:200] == 0:
        if mask.any():
            ys, xs = torch.where(mask)
            assert mask[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1].all()
    centre, corner = weights[:, size // 2, size // 2].mean(), weights[:, 0, 0].mean()
    assert centre < corner


def test_with_both_on_a_coin_decides_for_each_sample() -> None:
    weights = Mixing(1.0, 1.0, 0).weights(ROWS, 0, 16)
    even = (weights == weights[:, :1, :1]).flatten(1).all(1)
    between = (weights > 0) & (weights < 1)
    mixed_up = between.flatten(1).all(1)
    assert (even | ~between.flatten(1).any(1)).all()
    assert mixed_up.double().mean().item() == pytest.approx(0.5, abs=0.03)


def test_choices_belong_to_the_sample_the_view_and_the_seed() -> None:
    mixing = Mixing(0.4, 1.0, 0)
    many = mixing.weights(ROWS[:50], 3, 16)
    assert torch.equal(mixing.weights(ROWS[17:18], 3, 16)[0], many[17])
    assert torch.equal(mixing.partners(ROWS[:50].flip(0), 3, 99), mixing.partners(ROWS[:50], 3, 99).flip(0))
    for other in (mixing.weights(ROWS[:50], 4, 16), Mixing(0.4, 1.0, 1).weights(ROWS[:50], 3, 16)):
        assert (other == many).flatten(1).all(1).double().mean() < 0.2


def test_mixed_labels_sum_to_one() -> None:
    draw = np.random.Generator(np.random.Philox(0))
    own, partner = (torch.from_numpy(draw.integers(0, 5, 100)) for _ in range(2))
    share = torch.from_numpy(draw.random(100))
    labels = mix_labels(own, partner, share, 5)
    assert labels.dtype == torch.float32
    assert labels.shape == (100, 5)
    assert torch.allclose(labels.sum(1), torch.ones(100))
    for row, (a, b, s) in enumerate(zip(own.tolist(), partner.tolist(), share.tolist(), strict=True)):
        expected = [0.0] * 5
        expected[a] += s
        expected[b] += 1 - s
        assert labels[row].tolist() == pytest.approx(expected, abs=1e-6)


def test_what_has_no_label_adds_none() -> None:
    labels = mix_labels(torch.tensor([2, -1, -1]), torch.tensor([-1, 1, -1]), torch.tensor([0.75, 0.75, 0.75]), 3)
    assert labels.tolist() == [[0, 0, 0.75], [0, 0.25, 0], [0, 0, 0]]


def test_tiny_and_huge_alphas_stay_in_range() -> None:
    for alpha in (1e-4, 1e4):
        weights = Mixing(alpha, 0.0, 0).weights(ROWS, 0, 1)
        assert not weights.isnan().any()
        assert weights.min() >= 0
        assert weights.max() <= 1
