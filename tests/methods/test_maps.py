from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from kdtool_methods._maps import nearest, solid_map, stretched
from tests.methods.pairs import random
from tests.methods.sentences import mask_of, padded, wider


def test_each_sequence_is_pooled_alone():
    feat, mask = random(3, 5, 2).detach(), mask_of(5, 2, 3)
    got = stretched(feat, mask, 5)
    for row, length in enumerate((5, 2, 3)):
        want = F.adaptive_avg_pool1d(feat[row, :length].T[None], 5)[0].T
        torch.testing.assert_close(got[row], want)
    assert torch.equal(got[0], feat[0])


def test_padding_and_where_it_stands_do_not_matter():
    feat, mask = random(3, 5, 2).detach(), mask_of(5, 2, 3)
    want = stretched(feat, mask, 4)
    torch.testing.assert_close(stretched(padded(feat, 1, value=float("nan")), wider(mask), 4), want)
    torch.testing.assert_close(stretched(feat.roll(2, 1), mask.roll(2, 1), 4)[1:], want[1:])


def test_a_sequence_without_tokens_is_zero():
    assert stretched(random(2, 3, 2), mask_of(0, 3, width=3), 3)[0].abs().sum() == 0


def test_maps_of_other_features_are_as_they_were():
    mask = mask_of(3, 2)
    for shape, want in (((2, 3, 4), (2, 3, 4)), ((5,), (5, 1, 1)), ((4, 6), (6, 4, 1))):
        feat = random(2, *shape)
        assert solid_map(feat, shape, mask).shape[1:] == want
    assert solid_map(random(2, 3, 6).half(), (3, 6), mask).dtype == torch.float32


@pytest.mark.parametrize("size", [(2, 2), (8, 8), (2, 8), (4, 4)])
def test_nearest_pools_down_and_repeats_up(size):
    feat = random(2, 3, 4, 4)
    assert nearest(feat, size).shape[2:] == size
    torch.testing.assert_close(nearest(feat, size).mean((2, 3)), feat.mean((2, 3)))
