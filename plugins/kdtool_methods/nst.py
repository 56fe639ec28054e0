"""Like What You Like: Knowledge Distill via Neuron Selectivity Transfer. Huang & Wang, 2017. https://arxiv.org/abs/1707.01219

The authors' code drops the term that depends on the teacher alone; here it is kept, so that the loss is a squared
distance: zero for equal selectivities, never negative.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtool import Batch, Method, Setup, Taps, option
from kdtool.errors import InputError
from kdtool.layers import as_map, layer_pairs, map_shape, resize_map
from kdtool.losses import at_least_fp32, gram, inner
from kdtool.method import Shape

KERNELS = ("polynomial", "linear", "gaussian")
DEPTHS = (0.25, 0.5, 0.75, 1.0)
ENOUGH_POSITIONS = 16


def selectivity_loss(student_map: Tensor, teacher_map: Tensor, kernel: str = "polynomial") -> Tensor:
    """Return the squared maximum mean discrepancy of the channels' spatial patterns.

    Every channel's map, flattened and L2-normalised, is one sample. Each of the three kernel terms is the mean over the
    batch and over both channels. The kernels (section 4.2):

    - "polynomial": (x · y)^2, that is d=2, c=0.
    - "linear": x · y; then the loss is the squared distance of the two sides' mean patterns.
    - "gaussian": exp(-|x - y|^2 / (2 sigma^2)), sigma^2 the mean squared distance of a sample's patterns of student and
      teacher, all pairs of the two sides, as a constant.

    Args:
        student_map: (B, C, H, W), or tokens (B, N, C).
        teacher_map: the same, with any C, H and W; the larger map is average-pooled.
        kernel: "polynomial", "linear" or "gaussian".

    Raises:
        ValueError: an unknown kernel.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel must be one of {', '.join(KERNELS)}, not {kernel!r}")
    student_map, teacher_map = as_map(at_least_fp32(student_map)), as_map(at_least_fp32(teacher_map))
    size = _common_size(student_map.shape[1:], teacher_map.shape[1:])
    s_BCN, t_BCN = (F.normalize(resize_map(x, size).flatten(2), dim=2) for x in (student_map, teacher_map))
    (c_s, positions), c_t = s_BCN.shape[1:], t_BCN.shape[1]
    if kernel == "linear":
        return (s_BCN.mean(1) - t_BCN.mean(1)).square().sum(1).mean()
    if kernel == "gaussian":
        return _gaussian(s_BCN, t_BCN).mean().clamp_min(0)
    if positions * (c_s + c_t) <= c_s**2 + c_t**2 + c_s * c_t:
        # sum_ij (x_i · y_j)^2 = <X'X, Y'Y>: the three terms are one squared distance of (N, N) matrices.
        difference_BNN = gram(s_BCN.mT) / c_s - gram(t_BCN.mT) / c_t
        return difference_BNN.square().sum((1, 2)).mean()
    same_B = _mean_kernel(s_BCN, s_BCN) + _mean_kernel(t_BCN, t_BCN)
    return (same_B - 2 * _mean_kernel(s_BCN, t_BCN)).mean().clamp_min(0)  # below zero only by rounding


def _gaussian(s_BCN: Tensor, t_BCN: Tensor) -> Tensor:
    across_BST = _squared_distances(s_BCN, t_BCN)
    sigma_B11 = across_BST.detach().mean((1, 2), keepdim=True)
    twice_B11 = 2 * torch.where(sigma_B11 > 0, sigma_B11, 1.0)  # all patterns are one: every kernel is 1
    same_B, other_B, between_B = (
        (-apart / twice_B11).exp().mean((1, 2))
        for apart in (_squared_distances(s_BCN, s_BCN), _squared_distances(t_BCN, t_BCN), across_BST)
    )
    return same_B + other_B - 2 * between_B


def _squared_distances(x_BCN: Tensor, y_BDN: Tensor) -> Tensor:
    x_BC1, y_B1D = x_BCN.square().sum(2).unsqueeze(2), y_BDN.square().sum(2).unsqueeze(1)
    return (x_BC1 + y_B1D - 2 * inner(x_BCN, y_BDN)).clamp_min(0)


def _mean_kernel(x_BCN: Tensor, y_BCN: Tensor) -> Tensor:
    return inner(x_BCN, y_BCN).square().mean((1, 2))


def _common_size(student: Shape, teacher: Shape) -> tuple[int, int]:
    (_, h_s, w_s), (_, h_t, w_t) = map_shape(student), map_shape(teacher)
    return min(h_s, h_t), min(w_s, w_t)


class NST(Method):
    """Where the teacher's channels fire, as a distribution over channels, the student's fire too."""

    api = 1
    paper = "Huang & Wang, Like What You Like: Knowledge Distill via Neuron Selectivity Transfer, 2017"
    year = 2017
    url = "https://arxiv.org/abs/1707.01219"
    equation = (
        "cross-entropy + weight · MMD^2 of the channels' L2-normalised spatial maps, kernel k, (x · y)^2 by default: "
        "mean k(teacher, teacher) + mean k(student, student) - 2 mean k(student, teacher)"
    )
    knowledge = "feature"
    teachers = (1, None)

    @dataclass
    class Config:
        weight: float = option(50.0, "weight of the selectivity term", min=0.0)
        kernel: str = option(
            "polynomial", "of the discrepancy; published tables have the polynomial one", choices=KERNELS, late=True
        )
        layers: Optional[list[float]] = option(
            None,
            "relative depths of the layers compared, on both sides; default: one, the deepest of 0.25, 0.5, 0.75 and 1 "
            "where the two maps share at least 16 positions, else the one where they share most",
            min=0.0,
            max=1.0,
        )
        student_layers: Optional[list[str]] = option(None, "dotted names of the student's layers, instead of depths")
        teacher_layers: Optional[list[str]] = option(None, "dotted names of the teacher's layers, instead of depths")

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        names = cfg.student_layers or cfg.teacher_layers
        depths = cfg.layers or (() if names else DEPTHS)
        return layer_pairs("nst", depths, cfg.student_layers, cfg.teacher_layers)

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        chosen = cfg.layers or cfg.student_layers or cfg.teacher_layers
        self.pairs = [_pick(setup.student["stages"], shapes["stages"], bool(chosen)) for shapes in setup.teachers]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        losses = [
            selectivity_loss(batch.student.taps["stages"][pair], teacher.taps["stages"][pair], self.cfg.kernel)
            for pairs, teacher in zip(self.pairs, batch.teachers, strict=True)
            for pair in pairs
        ]
        return {"selectivity": self.cfg.weight * sum(losses[1:], losses[0])}


def _pick(student: list[Shape], teacher: list[Shape], chosen: bool) -> list[int]:
    """Return which of the tapped pairs are compared: all that the user chose, else the deepest that is large enough.

    Raises:
        InputError: a pair shares one position only. A normalised map of one number is its sign: nothing to learn.
    """
    sizes = [_common_size(*pair) for pair in zip(student, teacher, strict=True)]
    positions = [height * width for height, width in sizes]
    large = [min(count, ENOUGH_POSITIONS) for count in positions]
    pairs = list(range(len(sizes))) if chosen else [max(range(len(sizes)), key=lambda pair: (large[pair], pair))]
    for pair in pairs:
        if positions[pair] < 2:
            raise InputError(
                f"nst compares spatial patterns, but student {tuple(student[pair])} and teacher {tuple(teacher[pair])} "
                "share one position only: choose layers with larger maps (nst.layers) or a larger data.image_size."
            )
    return pairs
