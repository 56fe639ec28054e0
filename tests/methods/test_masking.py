from __future__ import annotations

import torch

from kdtool_methods._masking import draws, masked_exactly, masked_independently, normal_noise

INDEX = torch.arange(200)


def test_draws_follow_from_what_they_belong_to():
    first = draws(INDEX, 1, 0, 50)
    assert torch.equal(draws(INDEX.flip(0), 1, 0, 50).flip(0), first)
    assert first.min() >= 0
    assert first.max() < 2**31
    for other in (draws(INDEX, 2, 0, 50), draws(INDEX, 1, 1, 50), draws(INDEX + 1, 1, 0, 50), draws(INDEX, 0, 1, 50)):
        masks = masked_independently(first, 0.5), masked_independently(other, 0.5)
        assert abs((masks[0] == masks[1]).float().mean() - 0.5) < 0.02


def test_shares():
    draw = draws(INDEX, 0, 0, 50)
    assert not masked_independently(draw, 0.0).any()
    assert masked_independently(draw, 1.0).all()
    assert abs(masked_independently(draw, 0.15).float().mean() - 0.15) < 0.01
    assert (masked_independently(draw, 0.3).sum(1) != 15).any()
    for ratio, count in ((0.0, 0), (0.5, 25), (0.55, 28), (1.0, 50)):
        assert (masked_exactly(draw, ratio).sum(1) == count).all()
    assert abs(masked_exactly(draw, 0.5).float().mean(0) - 0.5).max() < 0.2


def test_noise_is_normal_and_follows_from_what_it_belongs_to():
    like = torch.zeros(200, 3, 5, 5)
    noise = normal_noise(INDEX, 3, 1, like)
    assert (noise.shape, noise.dtype) == (like.shape, torch.float32)
    assert torch.equal(normal_noise(INDEX[:7], 3, 1, like[:7]), noise[:7])
    assert abs(noise.mean()) < 0.03
    assert abs(noise.var() - 1) < 0.03
    assert abs((noise > 1.96).float().mean() - 0.025) < 0.004
    assert abs((noise[:, :, :-1] * noise[:, :, 1:]).mean()) < 0.03
    assert abs((noise * normal_noise(INDEX, 3, 2, like)).mean()) < 0.03
    assert normal_noise(INDEX, 3, 1, like.double()).dtype == torch.float64
