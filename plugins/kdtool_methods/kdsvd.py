"""Self-supervised Knowledge Distillation Using Singular Value Decomposition. Lee, Kim & Song, ECCV 2018.
https://arxiv.org/abs/1807.06819

A map, read as a matrix of positions by channels, is told by its first right singular vectors; what is learned is how
those of one layer relate to those of the next, by a radial basis function of every pair of their entries. As in the
authors' code one vector is kept, and the student's is the one of its first few that is most like the teacher's.

Singular vectors have no sign. The teacher's is such that its largest entry is positive, and the student's follows it.
Their gradient has the differences of squared singular values as denominators: here it is damped where those nearly
vanish, instead of being dropped where it is not finite. The paper also bounds the term's gradient by that of the task,
which a method cannot see; ``kdsvd.weight`` is all there is.

The paper pairs layers of equal widths. Where they differ a learned 1x1 convolution projects the student's map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Optional

import torch
from torch import Tensor

from kdtool import Batch, Method, Setup, Taps, option
from kdtool.errors import InputError
from kdtool.layers import layer_pairs
from kdtool.losses import at_least_fp32, gram
from kdtool_methods._maps import PairedLayers, total

CANDIDATES = 3  # singular vectors of the student beyond the number that is kept
SPREAD = 8.0  # of the radial basis function, the authors'


def singular_loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor], vectors: int = 1) -> Tensor:
    """Return the squared differences of adjacent layers' relations, summed over entries and layers, mean over B.

    Args:
        student_maps: two or more maps (B, C, H, W), ascending in depth.
        teacher_maps: as many, each with the channels of its partner; heights and widths may differ.
        vectors: singular vectors kept of each layer; fewer where a map has not as many positions or channels.

    Raises:
        ValueError: fewer than two layers, unequal numbers of them, or of channels.
    """
    if len(student_maps) != len(teacher_maps) or len(student_maps) < 2:
        raise ValueError(f"{len(student_maps)} student and {len(teacher_maps)} teacher map(s): give two or more pairs")
    ranks = [min(feat.shape[1], feat.shape[2] * feat.shape[3]) for feat in (*student_maps, *teacher_maps)]
    kept = min(vectors, *ranks)
    ours, theirs = [], []
    for student, teacher in zip(student_maps, teacher_maps, strict=True):
        if student.shape[:2] != teacher.shape[:2]:
            raise ValueError(f"channels differ: student {tuple(student.shape)}, teacher {tuple(teacher.shape)}")
        size_BK, theirs_BCK = right_vectors(teacher, kept)
        _, ours_BCM = right_vectors(student, kept + CANDIDATES)
        share_B1K = (size_BK / size_BK.norm(dim=1, keepdim=True).clamp_min(1e-30))[:, None]
        theirs_BCK = _signed(theirs_BCK)
        theirs.append(theirs_BCK * share_B1K)
        ours.append(aligned(ours_BCM, theirs_BCK) * share_B1K)
    pairs = zip(pairwise(ours), pairwise(theirs), strict=True)
    return total([(relation(*a) - relation(*b)).square().sum() / len(a[0]) for a, b in pairs])


def relation(first_BCK: Tensor, second_BDK: Tensor) -> Tensor:
    """Return (B, C, D, K): exp(-difference^2 / 8) of every entry of one layer's vectors and every one of another's."""
    return torch.exp(-(first_BCK[:, :, None] - second_BDK[:, None]).square() / SPREAD)


def right_vectors(feat_BCHW: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return singular values (B, K), up to a factor a sample, and right vectors (B, C, K) of a (H·W, C) matrix.

    Args:
        feat_BCHW: a map. Values have no gradient, vectors do.
        count: how many, largest first; K is that or the smaller side of the matrix.
    """
    flat_BNC = at_least_fp32(feat_BCHW).flatten(2).mT
    # Vectors do not depend on the map's scale: dividing first keeps squares in range.
    peak_B11 = flat_BNC.detach().abs().amax((1, 2), keepdim=True)
    flat_BNC = flat_BNC / torch.where(peak_B11 > 0, peak_B11, 1.0)
    tall = flat_BNC.shape[1] >= flat_BNC.shape[2]
    square_BK, vector = _FirstEigenvectors.apply(gram(flat_BNC.mT if tall else flat_BNC), count)
    with torch.autocast(flat_BNC.device.type, enabled=False):
        if not tall:
            vector = flat_BNC.mT @ vector
            size_B1K = vector.norm(dim=1, keepdim=True)
            tiny = size_B1K <= torch.finfo(size_B1K.dtype).eps
            vector = torch.where(tiny, 0.0, vector / torch.where(tiny, 1.0, size_B1K))
    return square_BK.detach().clamp_min(0.0).sqrt(), vector


class _FirstEigenvectors(torch.autograd.Function):
    """The largest eigenvalues of symmetric (B, N, N) matrices and their vectors, whose gradient is damped.

    An eigenvector's gradient divides by the difference d of its eigenvalue from each other one. Here d / (d^2 + e^2)
    stands for 1 / d, e far below the largest eigenvalue: bounded, and zero between equal ones.
    """

    @staticmethod
    def forward(ctx: Any, matrix_BNN: Tensor, count: int) -> tuple[Tensor, Tensor]:
        value_BN, vector_BNN = torch.linalg.eigh(matrix_BNN)
        value_BN, vector_BNN = value_BN.flip(1), vector_BNN.flip(2)
        ctx.save_for_backward(value_BN, vector_BNN)
        first_BK = value_BN[:, :count].contiguous()
        ctx.mark_non_differentiable(first_BK)
        return first_BK, vector_BNN[:, :, :count].contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        value_BN, vector_BNN = ctx.saved_tensors
        gradient_BNK = gradients[1]
        difference_BNK = value_BN[:, None, : gradient_BNK.shape[2]] - value_BN[:, :, None]
        info = torch.finfo(value_BN.dtype)
        damping_B11 = (info.eps**0.5 * value_BN[:, :1].clamp_min(info.tiny**0.25))[:, :, None]
        factor_BNK = difference_BNK / (difference_BNK.square() + damping_B11.square())
        inner_BNK = factor_BNK * (vector_BNN.mT @ gradient_BNK)
        found_BNN = vector_BNN @ inner_BNK @ vector_BNN[:, :, : gradient_BNK.shape[2]].mT
        return (found_BNN + found_BNN.mT) / 2, None


def aligned(ours_BCM: Tensor, theirs_BCK: Tensor) -> Tensor:
    """Return (B, C, K): for each of the teacher's vectors the student's that is most like it, with its sign."""
    cosine_BMK = ours_BCM.detach().mT @ theirs_BCK
    best_B1K = cosine_BMK.abs().argmax(1, keepdim=True)
    sign_B1K = torch.where(cosine_BMK.gather(1, best_B1K) < 0, -1.0, 1.0).to(ours_BCM.dtype)
    return ours_BCM.gather(2, best_B1K.expand(-1, ours_BCM.shape[1], -1)) * sign_B1K


def _signed(vector_BCK: Tensor) -> Tensor:
    """Return vectors whose entry of largest size is positive."""
    largest_B1K = vector_BCK.gather(1, vector_BCK.abs().argmax(1, keepdim=True))
    return torch.where(largest_B1K < 0, -vector_BCK, vector_BCK)


class KDSVD(Method):
    """The student's layers relate to each other as the teacher's, told by their first singular vectors."""

    api = 1
    paper = "Lee, Kim & Song, Self-supervised Knowledge Distillation Using Singular Value Decomposition, ECCV 2018"
    year = 2018
    url = "https://arxiv.org/abs/1807.06819"
    equation = (
        "cross-entropy + weight · sum over adjacent layers and entries (R_student - R_teacher)^2 / B, "
        "R: exp(-(v_i - w_j)^2 / 8), v and w the layers' right singular vectors times the teacher's singular values"
    )
    knowledge = "relation"
    teachers = (1, None)

    @dataclass
    class Config:
        weight: float = option(1.0, "weight of the term, a sum over entries", min=0.0)
        vectors: int = option(1, "singular vectors kept of each layer; the authors' code: 1", min=1)
        layers: list[float] = option(
            [0.33, 0.67, 1.0],
            "relative depths of the layers, ascending: each and the next are compared; 0 first stage, 1 last. Where a "
            "student's layer has not the teacher's channels, a learned 1x1 convolution projects it",
            min=0.0,
            max=1.0,
        )
        student_layers: Optional[list[str]] = option(None, "dotted names of the student's layers, instead of depths")
        teacher_layers: Optional[list[str]] = option(None, "dotted names of the teacher's layers, instead of depths")

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        taps = layer_pairs("kdsvd", cfg.layers, cfg.student_layers, cfg.teacher_layers)
        if len(taps.student["stages"]) < 2:  # type: ignore[arg-type]
            raise InputError("kdsvd compares how two layers relate: give at least two (kdsvd.layers).")
        return taps

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        self.layers = PairedLayers.of(setup)
        self.projections = self.layers.projections()

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        losses, projections = [], iter(self.projections)
        for pairs in self.layers.maps(batch):
            ours = [next(projections)(feat) for feat, _ in pairs]
            losses.append(singular_loss(ours, [feat for _, feat in pairs], self.cfg.vectors))
        return {"singular": self.cfg.weight * total(losses)}
