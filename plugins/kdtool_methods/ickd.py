"""Exploring Inter-Channel Correlation for Diversity-preserved Knowledge Distillation. Liu et al., ICCV 2021.
https://arxiv.org/abs/2202.03680

The paper divides the squared differences of the (C, C) correlations by C^2; the authors' code divides them by C, and
its weight 2.5 belongs to that. ``per`` chooses. Rows of the correlations are L2-normalised, as in the code, so that
maps of unequal size compare. ``grid`` is the paper's form for dense prediction: correlations within each cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

import torch
from torch import Tensor, nn

from kdtool import Batch, Method, Setup, Taps, option
from kdtool.layers import layer_pairs, width
from kdtool.losses import at_least_fp32, gram
from kdtool.method import Shape
from kdtool_methods._maps import PairedLayers, total


def correlation_loss(student_map: Tensor, teacher_map: Tensor, grid: int = 1) -> Tensor:
    """Return the mean squared difference of two maps' inter-channel correlations.

    A correlation is the (C, C) Gram matrix of a map's flattened channels, each row divided by its L2 norm.

    Args:
        student_map: (B, C, H, W).
        teacher_map: (B, C, H', W').
        grid: cells a side, each with a correlation of its own; the mean is over cells too. A side with fewer entries
            has as many cells as entries (the smaller of the two maps' counts).

    Raises:
        ValueError: unequal numbers of channels, or of samples.
    """
    if student_map.shape[:2] != teacher_map.shape[:2]:
        raise ValueError(f"channels differ: student {tuple(student_map.shape)}, teacher {tuple(teacher_map.shape)}")
    student_map, teacher_map = at_least_fp32(student_map), at_least_fp32(teacher_map)
    cells = [min(grid, student_map.shape[dim], teacher_map.shape[dim]) for dim in (2, 3)]
    pairs = zip(_cells(student_map, cells), _cells(teacher_map, cells), strict=True)
    losses = [(correlation(ours) - correlation(theirs)).square().mean() for ours, theirs in pairs]
    return total(losses) / len(losses)


def correlation(feat_BCHW: Tensor) -> Tensor:
    """Return (B, C, C): inner products of a map's channels, rows of length 1. Rows of silent channels are zero."""
    flat_BCN = feat_BCHW.flatten(2)
    # Rows do not depend on the map's scale: dividing first keeps the fourth powers in range.
    peak_B11 = flat_BCN.detach().abs().amax((1, 2), keepdim=True)
    flat_BCN = flat_BCN / torch.where(peak_B11 > 0, peak_B11, 1.0)
    gram_BCC = gram(flat_BCN)
    square_BC1 = gram_BCC.square().sum(2, keepdim=True)
    silent_BC1 = square_BC1 <= torch.finfo(square_BC1.dtype).tiny
    return torch.where(silent_BC1, 0.0, gram_BCC / torch.where(silent_BC1, 1.0, square_BC1).sqrt())


def _cells(feat_BCHW: Tensor, cells: list[int]) -> list[Tensor]:
    return [cell for band in feat_BCHW.tensor_split(cells[0], dim=2) for cell in band.tensor_split(cells[1], dim=3)]


class Embed(nn.Module):
    """Brings a student's map to the teacher's channels: 1x1 convolution and batch norm.

    Args:
        student, teacher: shapes of the features, without the batch.
    """

    def __init__(self, student: Shape, teacher: Shape):
        super().__init__()
        self.project = nn.Conv2d(width(student), width(teacher), 1, bias=False)
        self.norm = nn.BatchNorm2d(width(teacher))

    def forward(self, feat_BCHW: Tensor) -> Tensor:
        out: Tensor = self.norm(self.project(feat_BCHW))
        return out


class ICKD(Method):
    """The student's channels correlate among each other as the teacher's do."""

    api = 1
    paper = "Liu et al., Exploring Inter-Channel Correlation for Diversity-preserved Knowledge Distillation, ICCV 2021"
    year = 2021
    url = "https://arxiv.org/abs/2202.03680"
    equation = (
        "cross-entropy + weight · sum over layers 1/C · ||norm(F_student F_student^T) - "
        "norm(F_teacher F_teacher^T)||^2, F: (C, H·W), norm: rows of length 1"
    )
    knowledge = "feature"
    teachers = (1, None)

    @dataclass
    class Config:
        weight: float = option(2.5, "weight of the correlation term; the authors' on CIFAR-100", min=0.0)
        per: str = option(
            "channel",
            "what the squared differences are divided by; channel: C, as in the authors' code, to which the default "
            "weight belongs; entry: C^2, as in the paper",
            choices=("channel", "entry"),
        )
        grid: int = option(1, "cells a side with correlations of their own; 1: the whole map", min=1)
        layers: list[float] = option(
            [1.0], "relative depths of the layers paired, on both sides; 0 first stage, 1 last", min=0.0, max=1.0
        )
        student_layers: Optional[list[str]] = option(None, "dotted names of the student's layers, instead of depths")
        teacher_layers: Optional[list[str]] = option(None, "dotted names of the teacher's layers, instead of depths")

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        return layer_pairs("ickd", cfg.layers, cfg.student_layers, cfg.teacher_layers)

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        self.layers = PairedLayers.of(setup)
        self.embeds = nn.ModuleList(Embed(ours, theirs) for ours, theirs in self.layers.shapes)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        pairs = self.layers.all_maps(batch)
        losses = []
        for embed, (ours, theirs) in zip(self.embeds, pairs, strict=True):
            scale = theirs.shape[1] if self.cfg.per == "channel" else 1
            losses.append(scale * correlation_loss(embed(ours), theirs, self.cfg.grid))
        return {"correlation": self.cfg.weight * total(losses)}
