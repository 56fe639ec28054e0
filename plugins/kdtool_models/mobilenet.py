"""MobileNetV2 for 32x32 images: Sandler et al., CVPR 2018, with plain ReLUs and fewer strides (Tian et al., 2020)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from kdtool_models.chain import Chain, he_normal

BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels at width 1, how many, and the first one's stride."""

ENDS = {1: 2, 2: 4, 4: 8, 6: 16}
"""The blocks that end a stage, and how many times smaller their maps are than the image."""

LAST = 1280


def unit(in_chans: int, out_chans: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Return a convolution, its batch norm and its ReLU."""
    conv = nn.Conv2d(in_chans, out_chans, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out_chans), nn.ReLU(inplace=True)]


class Inverted(nn.Module):
    """Widen, filter each channel, narrow without a ReLU; beside an identity where the shape stays."""

    def __init__(self, in_chans: int, out_chans: int, stride: int, expansion: int):
        super().__init__()
        inside = in_chans * expansion
        narrow = unit(inside, out_chans, 1)[:2]
        self.conv = nn.Sequential(*unit(in_chans, inside, 1), *unit(inside, inside, 3, stride, inside), *narrow)
        self.keeps_shape = stride == 1 and in_chans == out_chans

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return x + out if self.keeps_shape else out


def mobilenetv2(width: float, in_chans: int = 3, **head: Any) -> Chain:
    """Return a MobileNetV2 whose layers are ``width`` times as wide as the paper's, but for the last."""
    before = int(32 * width)
    parts: dict[str, nn.Module] = {"conv1": nn.Sequential(*unit(in_chans, before, 3, 2))}
    stages = {"conv1": (before, 2)}
    for number, (expansion, channels, count, stride) in enumerate(BLOCKS):
        after = int(channels * width)
        rest = [Inverted(after, after, 1, expansion) for _ in range(count - 1)]
        parts[f"block{number}"] = nn.Sequential(Inverted(before, after, stride, expansion), *rest)
        if number in ENDS:
            stages[f"block{number}"] = (after, ENDS[number])
        before = after
    parts["conv2"] = nn.Sequential(*unit(before, LAST, 1))
    network = Chain(parts, stages, LAST, in_chans=in_chans, **head)
    he_normal(network, head_std=0.01)
    return network
