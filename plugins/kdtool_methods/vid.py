"""Variational Information Distillation for Knowledge Transfer. Ahn et al., CVPR 2019. https://arxiv.org/abs/1904.05835"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtool import Batch, Method, Setup, Taps, option
from kdtool.layers import Resampler, as_map, layer_pairs, paired_tokens, width
from kdtool.losses import at_least_fp32, mean_over
from kdtool.method import Shape


def gaussian_nll(mean: Tensor, target: Tensor, variance: Tensor, share_B: Tensor | None = None) -> Tensor:
    """Return -log q(target) of a Gaussian without its constant, mean over all entries.

    That is the mean of 0.5 · (log variance + (target - mean)^2 / variance).

    Args:
        mean: (B, C, ...), predicted from the student's feature.
        target: the teacher's feature, the same shape.
        variance: > 0; (C,), one a channel, or any shape that broadcasts against ``mean``.
        share_B: (B,) weights that stand for 1 / B, where rows do not count alike.

    Raises:
        ValueError: mean and target differ in shape.
    """
    if mean.shape != target.shape:
        raise ValueError(f"shapes differ: mean {tuple(mean.shape)}, target {tuple(target.shape)}")
    mean, target, variance = at_least_fp32(mean), at_least_fp32(target), at_least_fp32(variance)
    if variance.ndim == 1:
        variance = variance.view(-1, *[1] * (mean.ndim - 2))
    return 0.5 * mean_over(variance.log() + (target - mean).square() / variance, share_B)


class Gaussian(nn.Module):
    """q(teacher | student): three 1x1 convolutions predict the mean, a parameter a channel holds the variance.

    Args:
        student: shape of the student's feature, without the batch.
        teacher: shape of the teacher's feature.
        variance: initial variance, > eps.
        eps: smallest variance.
    """

    def __init__(self, student: Shape, teacher: Shape, variance: float, eps: float):
        super().__init__()
        c_in, c_out = width(student), width(teacher)
        self.resampler = Resampler(student, teacher)
        self.eps = eps
        self.regressor = nn.Sequential(
            nn.Conv2d(c_in, c_out, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(c_out, c_out, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(c_out, c_out, 1, bias=False),
        )
        start = variance - eps
        self.raw_variance = nn.Parameter(torch.full((c_out,), start + math.log(-math.expm1(-start))))  # softplus^-1

    def variance(self) -> Tensor:
        """Return the variance (C,) = softplus(parameter) + eps."""
        return F.softplus(self.raw_variance) + self.eps

    def forward(self, student: Tensor, teacher: Tensor, share_B: Tensor | None = None) -> Tensor:
        """Return the negative log-likelihood of the teacher's feature; the larger map is average-pooled."""
        mean = self.regressor(self.resampler(as_map(student)))
        return gaussian_nll(mean, self.resampler(as_map(teacher)), self.variance(), share_B)


class VID(Method):
    """Maximises a bound on the mutual information of teacher and student: the student predicts the teacher."""

    api = 1
    paper = "Ahn et al., Variational Information Distillation for Knowledge Transfer, CVPR 2019"
    year = 2019
    url = "https://arxiv.org/abs/1904.05835"
    equation = (
        "cross-entropy + weight · sum over layers mean of 1/2 · (log variance + (teacher - regressor(student))^2 / "
        "variance), variance learned for each channel"
    )
    knowledge = "feature"
    teachers = (1, None)

    @dataclass
    class Config:
        weight: float = option(1.0, "weight of the likelihood term", min=0.0)
        layers: list[float] = option(
            [0.33, 0.67, 1.0], "relative depths of the layers paired, on both sides; 0 first stage, 1 last",
            min=0.0, max=1.0,
        )  # fmt: skip
        student_layers: Optional[list[str]] = option(None, "dotted names of the student's layers, instead of depths")
        teacher_layers: Optional[list[str]] = option(None, "dotted names of the teacher's layers, instead of depths")
        variance: float = option(
            5.0,
            "initial variance, learned from there; 5 as in the authors' code. It moves by about the learning rate a "
            "step: in a run of some hundred it stays far above the spread of the teacher's features, and the term "
            "weighs next to nothing; 0.1 suits such runs",
            min=0.001,
        )
        eps: float = option(1e-5, "smallest variance", min=1e-12, max=0.0001)

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        return layer_pairs("vid", cfg.layers, cfg.student_layers, cfg.teacher_layers)

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        self.gaussians = nn.ModuleList(
            Gaussian(student, teacher, cfg.variance, cfg.eps)
            for shapes in setup.teachers
            for student, teacher in zip(setup.student["stages"], shapes["stages"], strict=True)
        )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        losses: list[Tensor] = [
            gaussian(student, teacher, share_B)
            for gaussian, (student, teacher, share_B) in zip(self.gaussians, paired_tokens(batch), strict=True)
        ]
        return {"nll": self.cfg.weight * sum(losses[1:], losses[0])}
