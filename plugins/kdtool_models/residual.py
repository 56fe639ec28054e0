"""Residual networks for 32x32 images.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2, with projections where the width
changes; the same with more filters (resnet8x4, resnet32x4); an ImageNet ResNet-50 without its early downsampling; and
Zagoruyko & Komodakis, "Wide Residual Networks", BMVC 2016. Widths and projections as in Tian et al., ICLR 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from kdtool_models.chain import Chain, he_normal


def conv3x3(in_chans: int, out_chans: int, stride: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution without bias that keeps H and W but for its stride."""
    return nn.Conv2d(in_chans, out_chans, 3, stride, 1, bias=False)


def projection(in_chans: int, out_chans: int, stride: int) -> nn.Module:
    """Return a shortcut that changes the shape, or an identity where that stays."""
    if stride == 1 and in_chans == out_chans:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_chans, out_chans, 1, stride, bias=False), nn.BatchNorm2d(out_chans))


class Basic(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, in_chans: int, width: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = conv3x3(in_chans, width, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv3x3(width, width), nn.BatchNorm2d(width)
        self.shortcut = projection(in_chans, width, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        joined: Tensor = self.relu(out + self.shortcut(x))
        return joined


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut; the output is four times as wide as the inside."""

    expansion = 4

    def __init__(self, in_chans: int, width: int, stride: int):
        super().__init__()
        out_chans = width * self.expansion
        self.conv1, self.bn1 = nn.Conv2d(in_chans, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv3x3(width, width, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, out_chans, 1, bias=False), nn.BatchNorm2d(out_chans)
        self.shortcut = projection(in_chans, out_chans, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        joined: Tensor = self.relu(out + self.shortcut(x))
        return joined


class PreActivated(nn.Module):
    """Two 3x3 convolutions, each after its batch norm and ReLU, beside a shortcut.

    Where the width changes, the shortcut starts behind the first ReLU.
    """

    expansion = 1

    def __init__(self, in_chans: int, width: int, stride: int):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(in_chans), conv3x3(in_chans, width, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), conv3x3(width, width)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = None if in_chans == width else nn.Conv2d(in_chans, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu(self.bn1(x))
        out = self.conv2(self.relu(self.bn2(self.conv1(active))))
        joined: Tensor = out + (x if self.shortcut is None else self.shortcut(active))
        return joined


Block = Callable[[int, int, int], nn.Module]


def blocks(block: Block, in_chans: int, width: int, out_chans: int, count: int, stride: int) -> nn.Sequential:
    """Return ``count`` blocks in a row, the first with the stride."""
    rest = [block(out_chans, width, 1) for _ in range(count - 1)]
    return nn.Sequential(block(in_chans, width, stride), *rest)


def resnet(
    counts: Sequence[int],
    widths: Sequence[int] = (16, 32, 64),
    stem: int = 16,
    block: type[Basic] | type[Bottleneck] = Basic,
    in_chans: int = 3,
    **head: Any,
) -> Chain:
    """Return a residual network: a 3x3 stem, then as many stages as ``counts`` has entries.

    Args:
        counts: blocks in each stage; each stage but the first halves H and W.
        widths: filters of each stage's blocks.
        stem: filters of the first convolution.
        block: what stages are made of.
        in_chans: channels of the images.
        head: num_classes, drop_rate and global_pool of ``Chain``.
    """
    parts: dict[str, nn.Module] = {
        "conv1": conv3x3(in_chans, stem), "bn1": nn.BatchNorm2d(stem), "relu": nn.ReLU(inplace=True)
    }  # fmt: skip
    stages, before = {"relu": (stem, 1)}, stem
    for number, (count, width) in enumerate(zip(counts, widths, strict=True)):
        after = width * block.expansion
        parts[f"layer{number + 1}"] = blocks(block, before, width, after, count, 2 if number else 1)
        stages[f"layer{number + 1}"] = (after, 2**number)
        before = after
    network = Chain(parts, stages, before, in_chans=in_chans, **head)
    he_normal(network)
    return network


def wide_resnet(depth: int, widen: int, in_chans: int = 3, **head: Any) -> Chain:
    """Return a wide residual network of 6n + 4 layers, its stages 16, 32 and 64 times ``widen`` filters wide."""
    count, rest = divmod(depth - 4, 6)
    if rest:
        raise ValueError(f"depth={depth}: a wide residual network has 6n + 4 layers.")
    parts: dict[str, nn.Module] = {"conv1": conv3x3(in_chans, 16)}
    stages, before = {"conv1": (16, 1)}, 16
    for number, width in enumerate((16 * widen, 32 * widen, 64 * widen)):
        parts[f"block{number + 1}"] = blocks(PreActivated, before, width, width, count, 2 if number else 1)
        stages[f"block{number + 1}"] = (width, 2**number)
        before = width
    parts |= {"bn1": nn.BatchNorm2d(before), "relu": nn.ReLU(inplace=True)}
    network = Chain(parts, stages, before, in_chans=in_chans, **head)
    he_normal(network)
    return network
