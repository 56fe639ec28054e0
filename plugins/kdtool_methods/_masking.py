"""Random masks that follow from what they belong to: the sample, the epoch, the layer and the place."""

from __future__ import annotations

import torch
from torch import Tensor

from kdtool.randomness import hashed, key_of

_BITS = 31
_SAMPLE, _EPOCH, _PLACE = (key_of("mask", what) for what in ("sample", "epoch", "place"))


def draws(index_B: Tensor, epoch: int, layer: int, count: int) -> Tensor:
    """Return (B, count) int64 numbers, uniform in [0, 2^31), the same whoever computes them.

    Args:
        index_B: position of each sample in the training set.
        epoch: epoch within the stage.
        layer: number of what is masked; others are independent.
        count: how many a sample.
    """
    sample_B = hashed(_SAMPLE, index_B) + layer
    anchor_B = hashed(_EPOCH, sample_B) + epoch
    place_N = torch.arange(count, device=index_B.device)
    return hashed(_PLACE, hashed(_PLACE, anchor_B)[:, None] + place_N) & ((1 << _BITS) - 1)


def masked_independently(draw_BN: Tensor, ratio: float) -> Tensor:
    """Return (B, N) bool: each masked with probability ``ratio``, on its own."""
    return draw_BN < int(ratio * (1 << _BITS))


def masked_exactly(draw_BN: Tensor, ratio: float) -> Tensor:
    """Return (B, N) bool: in each row N - int(N · (1 - ratio)) are masked, those of the largest draws."""
    kept = int(draw_BN.shape[1] * (1 - ratio))
    rank_BN = draw_BN.argsort(dim=1, stable=True).argsort(dim=1)
    return rank_BN >= kept


def normal_noise(index_B: Tensor, epoch: int, layer: int, like: Tensor) -> Tensor:
    """Return standard normal noise (B, ...) of the shape and type of ``like``, the same whoever computes it."""
    count = like[0].numel()
    uniform_BN = (draws(index_B, epoch, layer, 2 * count).to(like.dtype) + 0.5) / (1 << _BITS)
    size_BN = (-2 * uniform_BN[:, :count].log()).clamp_min(0.0).sqrt()  # Box & Muller, 1958
    noise: Tensor = (size_BN * torch.cos(2 * torch.pi * uniform_BN[:, count:])).view_as(like)
    return noise
