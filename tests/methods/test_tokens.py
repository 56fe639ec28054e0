"""Which layers of two transformers pair, and how two features come side by side."""

from __future__ import annotations

from math import floor

import pytest
import torch

from kdtool.errors import InputError
from kdtool_methods._tokens import Projections, block_depth, pair_layers, side_by_side
from kdtool_methods.distilbert import cosine_loss
from kdtool_methods.minilm import relation_loss
from kdtool_methods.tinybert import attention_loss, hidden_loss
from tests.methods.pairs import random


def layer(depth: float, blocks: int) -> int:
    """Return the layer, from 1, at a relative depth: the contract's depth d is stage floor(d · (count - 1) + 0.5)."""
    return floor(depth * (blocks - 1) + 0.5) + 1


@pytest.mark.parametrize("teacher", [1, 2, 3, 4, 5, 6, 7, 12, 24])
@pytest.mark.parametrize("student", [1, 2, 3, 4, 6, 12])
def test_with_both_counts_the_pairs_are_exact(student, teacher):
    for number in range(1, student + 1):
        share = number / student
        assert layer(block_depth(share, student), student) == number
        assert layer(block_depth(share, teacher), teacher) == max(round(share * teacher), 1)


@pytest.mark.parametrize(
    ("shares", "counts"),
    [((1 / 2,), (2, 4, 6, 12, 24)), ((1 / 4, 3 / 4), (8, 12, 24)), ((1 / 3, 2 / 3), (6, 12, 24)), ((1.0,), (1, 2, 5))],
)
def test_without_a_count_they_are_exact_in_common_networks(shares, counts):
    for share in shares:
        assert [layer(block_depth(share), count) for count in counts] == [round(share * count) for count in counts]


def test_layers_pair_one_by_one():
    taps = pair_layers("m", [0.5, 1.0], [0.25, -1], None, None)
    assert (taps.student, taps.teacher) == ({"stages": [0.5, 1.0]}, {"stages": [0.25, -1]})
    assert pair_layers("m", [0.5], [0.5], ["a", "b"], ["c", "d"]).teacher == {"stages": ["c", "d"]}
    with pytest.raises(InputError, match=r"2 student layer.* 1 teacher layer.*give m\.student_layers"):
        pair_layers("m", [0.5], [0.5], ["a", "b"], None)


@pytest.mark.parametrize(
    ("student", "teacher", "length"),
    [
        ((5, 3), (5, 4), 5),
        ((6, 3), (3, 4), 3),
        ((3, 4, 4), (4, 2, 2), 4),
        ((3, 2, 4), (4, 4, 2), 4),
        ((3, 4, 4), (16, 5), 4),
        ((3,), (4,), 1),
        ((3,), (5, 4), 1),
    ],
)
def test_any_two_features_come_side_by_side(student, teacher, length):
    s_BLD, t_BLD, mask = side_by_side(random(2, *student), random(2, *teacher, seed=1), None)
    assert s_BLD.shape[:2] == t_BLD.shape[:2] == (2, length)
    assert s_BLD.shape[2] == 3
    assert mask is None


def test_sequences_of_one_length_keep_their_mask_and_others_have_none():
    mask, tokens = torch.ones(2, 5, dtype=torch.bool), random(2, 5, 3)
    same = side_by_side(tokens, tokens, mask)
    assert same[0] is tokens
    assert same[2] is mask
    assert side_by_side(random(2, 3), random(2, 4), mask)[2] is None
    for other in (random(2, 6, 3), random(2, 3), random(2, 3, 2, 2)):
        with pytest.raises(ValueError, match="padding"):
            side_by_side(tokens, other, mask)


def test_layers_of_one_pair_of_widths_share_a_projection():
    pairs = [((5, 3), (5, 4)), ((5, 3), (5, 4)), ((3, 2, 2), (6, 2, 2)), ((5, 3), (5, 3))]
    project = Projections(pairs)
    assert [(layer.in_features, layer.out_features) for layer in project.layers.values()] == [(3, 4), (3, 6)]
    feat = torch.randn(2, 5, 3)
    assert project(feat, 3) is feat
    assert project(feat, 6).shape == (2, 5, 6)
    assert len(Projections(pairs, always=True).layers) == 3


@pytest.mark.parametrize("loss", [cosine_loss, hidden_loss, attention_loss, relation_loss])
@pytest.mark.parametrize("shape", [(2, 1), (1, 4), (4,), (2, 5)])
def test_a_mask_of_another_shape_is_refused_and_not_stretched(loss, shape):
    size = (2, 3, 4, 4) if loss is attention_loss else (2, 4, 6)
    student, teacher = random(*size), random(*size, seed=1)
    assert loss(student, teacher, torch.ones(2, 4, dtype=torch.bool)) == loss(student, teacher, None)
    with pytest.raises(ValueError, match="does not fit 2 samples of 4 tokens"):
        loss(student, teacher, torch.ones(shape, dtype=torch.bool))
