"""A Comprehensive Overhaul of Feature Distillation. Heo et al., ICCV 2019. https://arxiv.org/abs/1904.01866

The paper compares features before the ReLU. The margin of a teacher's channel is the expectation of its negative
values, computed as in the authors' code from the batch norm that the layer comes out of. Where there is none (vision
transformers, networks that activate first) it is estimated, a mean over all negative entries of the channel in the
batches so far. Read after its ReLU a layer has no negative entries, and the loss compares what the ReLU passes; name
the input of an activation (``layer4.1.act2:in``) in ``teacher_layers`` to read before it.

As in the authors' code a layer weighs half as much as the next deeper one. Its weight on CIFAR, 1/1000, multiplies a
sum over entries; where ``weight`` is not given it is that for a deepest map of 256x8x8, and as much a mean over others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import torch
from torch import Tensor, nn

from kdtool import Batch, Method, Setup, Taps, option
from kdtool.layers import layer_pairs, resize_map, width
from kdtool.losses import at_least_fp32
from kdtool.method import Own, Shape
from kdtool_methods._maps import PairedLayers, require_equal, size_of, total

DEEPEST_SCALE = 1e-3 * 256 * 8 * 8  # of the CIFAR-100 experiments
RARE = 1e-3  # the authors' bound, below which the expectation would be of next to nothing


def partial_l2(student_map: Tensor, teacher_map: Tensor, margin_1C11: Tensor) -> Tensor:
    """Return the partial L2 distance of features before the ReLU, summed over entries, mean over B (Eq. 5 and 6).

    The target is max(teacher, margin). Where it is not positive and the student lies below it nothing is lost: the
    ReLU lets neither pass.

    Args:
        student_map: (B, C, H, W), through the regressor.
        teacher_map: the same shape.
        margin_1C11: (1, C, 1, 1), <= 0: of each channel the expectation of its negative values.

    Raises:
        ValueError: unequal shapes.
    """
    require_equal(student_map, teacher_map)
    student_map = at_least_fp32(student_map)
    target = torch.maximum(at_least_fp32(teacher_map), at_least_fp32(margin_1C11).to(student_map))
    nothing_lost = (target <= 0) & (student_map <= target)
    return torch.where(nothing_lost, 0.0, student_map - target).square().sum() / len(student_map)


def norm_margin(weight_C: Tensor, bias_C: Tensor) -> Tensor:
    """Return (C,) of a batch norm's channels the expectation of their negative values (Eq. 4).

    A channel is normal with mean m, the bias, and deviation s, the weight's size: m - s · φ(m / s) / Φ(-m / s). As in
    the authors' code it is -3 · s where values are negative with a probability of at most 0.001.

    Args:
        weight_C: (C,).
        bias_C: (C,).
    """
    mean_C, deviation_C = at_least_fp32(bias_C), at_least_fp32(weight_C).abs()
    at_C = mean_C / deviation_C.clamp_min(torch.finfo(deviation_C.dtype).tiny)
    below_C = torch.special.ndtr(-at_C)
    density_C = torch.exp(-at_C.square() / 2) / math.sqrt(2 * math.pi)
    rare = below_C <= RARE
    return torch.where(rare, -3 * deviation_C, mean_C - deviation_C * density_C / torch.where(rare, 1.0, below_C))


class Margin(nn.Module):
    """The expectation of a teacher layer's negative values, a channel each: its batch norm's, or a running one.

    Args:
        channels: C.
        norm: that the layer comes out of; None: the mean over the batches so far.
    """

    mean_C: Tensor
    count_C: Tensor

    def __init__(self, channels: int, norm: Own | None = None):
        super().__init__()
        self.norm = norm
        self.register_buffer("mean_C", torch.zeros(channels))
        self.register_buffer("count_C", torch.zeros(channels))

    def forward(self, teacher_map: Tensor) -> Tensor:
        """Return (1, C, 1, 1): of the norm, or of the batches counted in so far; before the first, of this one."""
        if self.norm is not None and self.norm.bias is not None:
            return norm_margin(self.norm.weight, self.norm.bias).view(1, -1, 1, 1).to(teacher_map.device)
        ours_C, _ = self.negatives(teacher_map)
        return torch.where(self.count_C.sum() > 0, self.mean_C, ours_C).view(1, -1, 1, 1)

    @torch.no_grad()
    def update(self, teacher_map: Tensor) -> None:
        """Count a batch in, where there is no norm to tell."""
        if self.norm is not None:
            return
        ours_C, more_C = self.negatives(teacher_map)
        self.count_C.add_(more_C)
        # A mean that moves, where sums would outgrow what fp32 can add to.
        self.mean_C.add_((ours_C - self.mean_C) * (more_C / self.count_C.clamp_min(1.0)))

    def negatives(self, teacher_map: Tensor) -> tuple[Tensor, Tensor]:
        """Return the means (0 where there are none) and the numbers of a batch's negative entries, (C,) each."""
        teacher_map = teacher_map.detach().to(self.mean_C.dtype)
        negative = teacher_map < 0
        count_C = negative.to(teacher_map.dtype).sum((0, 2, 3))
        return torch.where(negative, teacher_map, 0.0).sum((0, 2, 3)) / count_C.clamp_min(1.0), count_C


class Regressor(nn.Module):
    """Brings a student's map to the teacher's channels and size: 1x1 convolution and batch norm.

    Args:
        student, teacher: shapes of the features, without the batch.
    """

    def __init__(self, student: Shape, teacher: Shape):
        super().__init__()
        self.size = size_of(teacher)
        self.project = nn.Conv2d(width(student), width(teacher), 1, bias=False)
        self.norm = nn.BatchNorm2d(width(teacher))
        nn.init.normal_(self.project.weight, std=math.sqrt(2 / width(teacher)))

    def forward(self, feat_BCHW: Tensor) -> Tensor:
        out: Tensor = self.norm(resize_map(self.project(feat_BCHW), self.size))
        return out


class OFD(Method):
    """The student learns what the teacher's ReLU passes, and to be below a margin where it passes nothing."""

    api = 1
    paper = "Heo et al., A Comprehensive Overhaul of Feature Distillation, ICCV 2019"
    year = 2019
    url = "https://arxiv.org/abs/1904.01866"
    equation = (
        "cross-entropy + weight · sum over layers 2^-(depth from the last) · partial L2(max(teacher, margin), "
        "regressor(student)), margin: expectation of the channel's negative values"
    )
    knowledge = "feature"
    teachers = (1, None)
    batch = "global"  # the margins are means over all of the batch

    @dataclass
    class Config:
        weight: Optional[float] = option(
            None,
            "weight of the term, a sum over entries; default: 16.384 / entries of the deepest teacher map, which is "
            "the authors' 1/1000 on 256x8x8 entries",
            min=0.0,
        )
        layer_weights: str = option(
            "halving", "from the deepest layer on 1, 1/2, 1/4, as in the authors' code, or all equal",
            choices=("halving", "equal"),
        )  # fmt: skip
        layers: list[float] = option(
            [0.33, 0.67, 1.0], "relative depths of the layers paired, ascending; 0 first stage, 1 last",
            min=0.0, max=1.0,
        )  # fmt: skip
        student_layers: Optional[list[str]] = option(
            None, "dotted names of the student's layers, instead of depths; name:in is a module's input"
        )
        teacher_layers: Optional[list[str]] = option(None, "dotted names of the teacher's layers, instead of depths")

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        return layer_pairs("ofd", cfg.layers, cfg.student_layers, cfg.teacher_layers)

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        self.layers = PairedLayers.of(setup)
        self.regressors = nn.ModuleList(Regressor(ours, theirs) for ours, theirs in self.layers.shapes)
        known = [norm for parts in setup.teacher_parts for norm in parts.norms.get("stages", ())]
        norms = known or [None] * len(self.layers.shapes)
        self.margins = nn.ModuleList(
            Margin(width(shape), norm) for (_, shape), norm in zip(self.layers.shapes, norms, strict=True)
        )
        self.weights = [weight for shapes in self.layers.teachers for weight in self.layer_scales(shapes)]

    def layer_scales(self, teacher: Sequence[Shape]) -> list[float]:
        """Return the weight of each layer's loss for one teacher."""
        weight = DEEPEST_SCALE / math.prod(teacher[-1]) if self.cfg.weight is None else float(self.cfg.weight)
        halving, last = self.cfg.layer_weights == "halving", len(teacher) - 1
        return [weight * (0.5 ** (last - layer) if halving else 1.0) for layer in range(len(teacher))]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        losses = [
            weight * partial_l2(regressor(ours), theirs, margin(theirs))
            for weight, regressor, margin, (ours, theirs) in zip(
                self.weights, self.regressors, self.margins, self.layers.all_maps(batch), strict=True
            )
        ]
        return {"partial": total(losses)}

    @torch.no_grad()
    def after_step(self, batch: Batch) -> None:
        for margin, (_, theirs) in zip(self.margins, self.layers.all_maps(batch), strict=True):
            assert isinstance(margin, Margin)
            margin.update(theirs)
