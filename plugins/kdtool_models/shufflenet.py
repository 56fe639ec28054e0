"""ShuffleNets for 32x32 images, with a 1x1 stem instead of early downsampling, as in Tian et al., ICLR 2020.

Zhang et al., "ShuffleNet", CVPR 2018 (groups of 3); Ma et al., "ShuffleNet V2", ECCV 2018 (width 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtool_models.chain import Chain

STEM = 24


def shuffled(x_BCHW: Tensor, groups: int) -> Tensor:
    """Return the channels of ``groups`` equal groups in turn: one of each, then the next of each."""
    batch, channels, height, width = x_BCHW.shape
    return x_BCHW.view(batch, groups, channels // groups, height, width).transpose(1, 2).reshape(x_BCHW.shape)


def depthwise(channels: int, stride: int) -> nn.Conv2d:
    """Return a 3x3 convolution of each channel by itself."""
    return nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)


def pointwise(in_chans: int, out_chans: int, groups: int = 1) -> nn.Conv2d:
    """Return a 1x1 convolution."""
    return nn.Conv2d(in_chans, out_chans, 1, groups=groups, bias=False)


class Grouped(nn.Module):
    """ShuffleNet's unit: grouped 1x1, shuffle, depthwise 3x3, grouped 1x1.

    With stride 2 the averaged input is joined to the output as further channels, else it is added.
    """

    def __init__(self, in_chans: int, out_chans: int, stride: int, groups: int):
        super().__init__()
        self.stride = stride
        own = out_chans - in_chans if stride == 2 else out_chans
        inside = own // 4
        self.groups = 1 if in_chans == STEM else groups
        self.conv1, self.bn1 = pointwise(in_chans, inside, self.groups), nn.BatchNorm2d(inside)
        self.conv2, self.bn2 = depthwise(inside, stride), nn.BatchNorm2d(inside)
        self.conv3, self.bn3 = pointwise(inside, own, groups), nn.BatchNorm2d(own)
        self.relu = nn.ReLU()  # a module, so that what goes into it can be tapped

    def forward(self, x: Tensor) -> Tensor:
        out = shuffled(F.relu(self.bn1(self.conv1(x))), self.groups)
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out = torch.cat([out, F.avg_pool2d(x, 3, 2, 1)], 1) if self.stride == 2 else out + x
        joined: Tensor = self.relu(out)
        return joined


class Split(nn.Module):
    """ShuffleNet V2's unit: half of the channels pass, the others are filtered."""

    def __init__(self, channels: int):
        super().__init__()
        half = channels // 2
        self.conv1, self.bn1 = pointwise(half, half), nn.BatchNorm2d(half)
        self.conv2, self.bn2 = depthwise(half, 1), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = pointwise(half, half), nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        passed, taken = x.chunk(2, 1)
        out = F.relu(self.bn1(self.conv1(taken)))
        out = self.bn2(self.conv2(out))
        out = F.relu(self.bn3(self.conv3(out)))
        return shuffled(torch.cat([passed, out], 1), 2)


class Down(nn.Module):
    """ShuffleNet V2's unit that halves the map: two branches with stride 2, joined."""

    def __init__(self, in_chans: int, out_chans: int):
        super().__init__()
        half = out_chans // 2
        self.conv1, self.bn1 = depthwise(in_chans, 2), nn.BatchNorm2d(in_chans)
        self.conv2, self.bn2 = pointwise(in_chans, half), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = pointwise(in_chans, half), nn.BatchNorm2d(half)
        self.conv4, self.bn4 = depthwise(half, 2), nn.BatchNorm2d(half)
        self.conv5, self.bn5 = pointwise(half, half), nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        left = F.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        right = F.relu(self.bn3(self.conv3(x)))
        right = F.relu(self.bn5(self.conv5(self.bn4(self.conv4(right)))))
        return shuffled(torch.cat([left, right], 1), 2)


def _chain(layers: Sequence[nn.Module], widths: Sequence[int], last: int, in_chans: int, head: dict[str, Any]) -> Chain:
    parts: dict[str, nn.Module] = {
        "conv1": pointwise(in_chans, STEM), "bn1": nn.BatchNorm2d(STEM), "relu": nn.ReLU(inplace=True)
    }  # fmt: skip
    stages = {"relu": (STEM, 1)}
    for number, (layer, width) in enumerate(zip(layers, widths, strict=True), 1):
        parts[f"layer{number}"] = layer
        stages[f"layer{number}"] = (width, 2**number)
    if last != widths[-1]:
        parts |= {"conv2": pointwise(widths[-1], last), "bn2": nn.BatchNorm2d(last), "relu2": nn.ReLU(inplace=True)}
    return Chain(parts, stages, last, in_chans=in_chans, **head)


def shufflenet_v1(widths: Sequence[int] = (240, 480, 960), groups: int = 3, in_chans: int = 3, **head: Any) -> Chain:
    """Return a ShuffleNet of 4, 8 and 4 units."""
    layers, before = [], STEM
    for width, count in zip(widths, (4, 8, 4), strict=True):
        rest = [Grouped(width, width, 1, groups) for _ in range(count - 1)]
        layers.append(nn.Sequential(Grouped(before, width, 2, groups), *rest))
        before = width
    return _chain(layers, widths, before, in_chans, head)


def shufflenet_v2(widths: Sequence[int] = (116, 232, 464), last: int = 1024, in_chans: int = 3, **head: Any) -> Chain:
    """Return a ShuffleNet V2 of 4, 8 and 4 units and a last 1x1 convolution."""
    layers, before = [], STEM
    for width, count in zip(widths, (4, 8, 4), strict=True):
        rest = [Split(width) for _ in range(count - 1)]
        layers.append(nn.Sequential(Down(before, width), *rest))
        before = width
    return _chain(layers, widths, last, in_chans, head)
