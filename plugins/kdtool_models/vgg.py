"""VGG for 32x32 images: Simonyan & Zisserman, ICLR 2015, with batch norm and one linear layer (Tian et al., 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from kdtool_models.chain import Chain, he_normal


def vgg(counts: Sequence[int], in_chans: int = 3, **head: Any) -> Chain:
    """Return five blocks of 3x3 convolutions, 64 to 512 wide, each batch-normalised.

    The map is halved between the first four blocks; the last two share a resolution.

    Args:
        counts: convolutions in each of the five blocks.
        in_chans: channels of the images.
        head: num_classes, drop_rate and global_pool of ``Chain``.
    """
    parts: dict[str, nn.Module] = {}
    stages, before, reduction = {}, in_chans, 1
    for number, (count, width) in enumerate(zip(counts, (64, 128, 256, 512, 512), strict=True)):
        if 0 < number < 4:
            parts[f"pool{number - 1}"] = nn.MaxPool2d(2)
            reduction *= 2
        layers: list[nn.Module] = []
        for _ in range(count):
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            before = width
        parts[f"block{number}"] = nn.Sequential(*layers)
        stages[f"block{number}"] = (width, reduction)
    network = Chain(parts, stages, before, in_chans=in_chans, **head)
    he_normal(network, head_std=0.01)
    return network
