"""Distilling Knowledge via Knowledge Review. Chen et al., CVPR 2021. https://arxiv.org/abs/2104.09044

A level of the student is fused with all deeper ones (ABF), and learns the teacher's level. As in the authors' code the
deepest level is the pooled embedding, deeper features are enlarged by repeating entries, and the weight rises over the
first 20 of 240 epochs. The code takes features before the activation; on networks whose stages end after it,
``student_layers`` and ``teacher_layers`` can name its input (``layer4.1.act2:in``).

Sequences with padding are stretched to one length first, so that padding never counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtool import Batch, Method, Setup, Taps, option
from kdtool.layers import layer_pairs, width
from kdtool.losses import at_least_fp32, within_one
from kdtool.method import Shape
from kdtool_methods._maps import PairedLayers, nearest, require_equal, size_of, total

PAPER_EPOCHS, PAPER_WARMUP = 240, 20  # of the CIFAR-100 experiments
LARGEST_WIDTH = 512
PYRAMID = (4, 2, 1)


def hierarchical_loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Return the hierarchical context loss (HCL) of two maps.

    The mean squared difference of the maps, plus 1/2, 1/4, 1/8 of that of the maps average-pooled to 4x4, 2x2, 1x1,
    leaving out those not below the map's height, divided by the sum of the weights used.

    Args:
        student_map: (B, C, H, W).
        teacher_map: the same shape.

    Raises:
        ValueError: unequal shapes.
    """
    require_equal(student_map, teacher_map)
    difference_BCHW = at_least_fp32(student_map) - at_least_fp32(teacher_map)
    loss, weight, weights = difference_BCHW.square().mean(), 1.0, 1.0
    for size in PYRAMID:
        if size < difference_BCHW.shape[2]:
            weight /= 2
            weights += weight
            # Pooling is linear: the difference of the pooled maps is the pooled difference.
            loss = loss + weight * F.adaptive_avg_pool2d(difference_BCHW, size).square().mean()
    return loss / weights


class Fusion(nn.Module):
    """Attention-based fusion (ABF) of one level with what came from the deeper ones.

    Args:
        student: shape of the student's feature, without the batch.
        teacher: shape of the teacher's feature.
        middle: channels of what is handed from level to level.
        deepest: there is no deeper level to fuse with.
    """

    def __init__(self, student: Shape, teacher: Shape, middle: int, deepest: bool):
        super().__init__()
        self.size = size_of(teacher)
        self.enter = nn.Sequential(nn.Conv2d(width(student), middle, 1, bias=False), nn.BatchNorm2d(middle))
        self.leave = nn.Sequential(
            nn.Conv2d(middle, width(teacher), 3, padding=1, bias=False), nn.BatchNorm2d(width(teacher))
        )
        self.attention = None if deepest else nn.Conv2d(2 * middle, 2, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module is not self.attention:
                nn.init.kaiming_uniform_(module.weight, a=1)

    def forward(self, feat_BCHW: Tensor, deeper: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the level's map in the teacher's shape, and the fused one (B, middle, H, W) for the next level."""
        fused = self.enter(feat_BCHW)
        if self.attention is not None and deeper is not None:
            deeper = nearest(deeper, (fused.shape[2], fused.shape[3]))
            share_B2HW = torch.sigmoid(self.attention(torch.cat([fused, deeper], dim=1)))
            fused = fused * share_B2HW[:, :1] + deeper * share_B2HW[:, 1:]
        fused = nearest(fused, self.size)
        return self.leave(fused), fused


class Review(nn.Module):
    """One teacher: the fusions of all levels, from the deepest on.

    Args:
        student, teacher: shapes of the levels, ascending in depth.
    """

    def __init__(self, student: Sequence[Shape], teacher: Sequence[Shape]):
        super().__init__()
        middle, last = min(LARGEST_WIDTH, width(student[-1])), len(student) - 1
        self.fusions = nn.ModuleList(
            Fusion(ours, theirs, middle, level == last)
            for level, (ours, theirs) in enumerate(zip(student, teacher, strict=True))
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return the student's reviewed maps, ascending in depth, each in the shape of the teacher's."""
        found: list[Tensor] = []
        deeper: Tensor | None = None
        for fusion, feat in zip(reversed(self.fusions), reversed(maps), strict=True):
            out, deeper = fusion(feat, deeper)
            found.insert(0, out)
        return found


class ReviewKD(Method):
    """Every level of the student, fused with the deeper ones, learns the teacher's level."""

    api = 1
    paper = "Chen et al., Distilling Knowledge via Knowledge Review, CVPR 2021"
    year = 2021
    url = "https://arxiv.org/abs/2104.09044"
    equation = (
        "cross-entropy + warm-up · weight · sum over levels HCL(ABF(student level and all deeper ones), teacher level)"
    )
    knowledge = "feature"
    teachers = (1, None)

    @dataclass
    class Config:
        weight: float = option(
            5.0, "weight of the review term; the paper's CIFAR-100 runs choose it by pair, mostly 5", min=0.0
        )
        layers: list[float] = option(
            [0.33, 0.67, 1.0], "relative depths of the levels, ascending, on both sides; 0 first stage, 1 last",
            min=0.0, max=1.0,
        )  # fmt: skip
        embedding: bool = option(True, "the pooled embedding is the deepest level")
        student_layers: Optional[list[str]] = option(
            None, "dotted names of the student's levels, instead of depths; name:in is a module's input"
        )
        teacher_layers: Optional[list[str]] = option(None, "dotted names of the teacher's levels, instead of depths")
        warmup: Optional[int] = option(
            None,
            "epochs over which the weight rises from zero, as min(epoch / warmup, 1), epochs counted from 0; 0: none; "
            "default: the authors' 20 of 240 epochs, stretched to the run",
            min=0,
        )

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        pairs = layer_pairs("reviewkd", cfg.layers, cfg.student_layers, cfg.teacher_layers)
        if not cfg.embedding:
            return pairs
        sides = ([*spec["stages"], "embedding"] for spec in (pairs.student, pairs.teacher))  # type: ignore[misc]
        student, teacher = sides
        return Taps(student={"stages": student}, teacher={"stages": teacher})

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        self.layers = PairedLayers.of(setup)
        self.reviews = nn.ModuleList(Review(self.layers.student, shapes) for shapes in self.layers.teachers)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        losses: list[Tensor] = []
        for review, pairs in zip(self.reviews, self.layers.maps(batch), strict=True):
            reviewed = review([ours for ours, _ in pairs])
            losses += [hierarchical_loss(ours, theirs) for ours, (_, theirs) in zip(reviewed, pairs, strict=True)]
        return {"review": self.rise(batch) * self.cfg.weight * total(losses)}

    def rise(self, batch: Batch) -> Any:
        """Return the share of the weight that applies now, in [0, 1]."""
        warmup: int | None = self.cfg.warmup
        if warmup is None:
            return within_one(PAPER_EPOCHS * batch.progress / PAPER_WARMUP)
        return within_one(batch.epoch / warmup) if warmup else 1.0
