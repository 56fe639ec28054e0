"""V_kD: Improving Knowledge Distillation using Orthogonal Projections. Miles, Elezi & Deng, CVPR 2024.
https://arxiv.org/abs/2403.06213

The projection is the first rows and columns of an orthogonal matrix, the exponential (or Cayley transform) of a learned
skew-symmetric one. The teacher's features are normalised: each sample's to zero mean and unit variance (layer norm, as
in the authors' code for classification), or the batch's features are whitened, which the paper prefers for generation.
The code compares by a smooth L1 loss; the paper writes a squared distance. ``form`` chooses, squared by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtool import Batch, Method, Setup, Taps, option
from kdtool.layers import as_vector, layer_pairs, width
from kdtool.losses import at_least_fp32
from kdtool.method import Shape
from kdtool_methods._maps import PairedLayers, require_equal, total


def projection_loss(projected_BD: Tensor, target_BD: Tensor, form: str = "squared") -> Tensor:
    """Return the mean squared difference over all entries, or the mean smooth L1 loss.

    Args:
        projected_BD: the student's features through the orthogonal projection.
        target_BD: the teacher's, normalised.
        form: "squared", or "smooth": half the square below a difference of 1, the absolute less a half above.

    Raises:
        ValueError: unequal shapes, or an unknown form.
    """
    require_equal(projected_BD, target_BD)
    projected_BD, target_BD = at_least_fp32(projected_BD), at_least_fp32(target_BD)
    if form == "squared":
        return F.mse_loss(projected_BD, target_BD)
    if form == "smooth":
        return F.smooth_l1_loss(projected_BD, target_BD)
    raise ValueError(f"form must be 'squared' or 'smooth', not {form!r}")


def orthogonal(raw_NN: Tensor, by: str = "exponential") -> Tensor:
    """Return the orthogonal (N, N) matrix that belongs to the skew-symmetric part of any matrix.

    Args:
        raw_NN: whose strictly lower triangle counts.
        by: "exponential": exp(A); "cayley": (I - A/2)^-1 (I + A/2), equal to second order.

    Raises:
        ValueError: an unknown ``by``.
    """
    lower_NN = at_least_fp32(raw_NN).tril(-1)
    skew_NN = lower_NN - lower_NN.mT
    with torch.autocast(raw_NN.device.type, enabled=False):
        if by == "exponential":
            exponential_NN: Tensor = torch.linalg.matrix_exp(skew_NN)
            return exponential_NN
        if by == "cayley":
            identity_NN = torch.eye(len(skew_NN), dtype=skew_NN.dtype, device=skew_NN.device)
            cayley_NN: Tensor = torch.linalg.solve(identity_NN - skew_NN / 2, identity_NN + skew_NN / 2)
            return cayley_NN
    raise ValueError(f"by must be 'exponential' or 'cayley', not {by!r}")


def layer_normalised(feat_BD: Tensor) -> Tensor:
    """Return features of zero mean and unit variance, each sample its own."""
    feat_BD = at_least_fp32(feat_BD)
    return F.layer_norm(feat_BD, (feat_BD.shape[1],))


@torch.no_grad()
def whitened(feat_BD: Tensor) -> Tensor:
    """Return features whose covariance over the batch is the identity, as near to the given ones as can be (ZCA).

    Where a batch spans fewer than D directions, it is the identity on those and zero on the others. No gradient.
    """
    feat_BD = at_least_fp32(feat_BD)
    centred_BD = feat_BD - feat_BD.mean(0)
    with torch.autocast(feat_BD.device.type, enabled=False):
        left_BR, size_R, right_RD = torch.linalg.svd(centred_BD, full_matrices=False)
        real_R = size_R > max(feat_BD.shape) * torch.finfo(size_R.dtype).eps * size_R.amax().clamp_min(1e-30)
        white_BD: Tensor = len(feat_BD) ** 0.5 * (left_BR * real_R) @ right_RD
        return white_BD


NORMALISED = {"layer": layer_normalised, "whiten": whitened, "none": at_least_fp32}


class Projection(nn.Module):
    """A linear map with orthonormal columns, or rows where the teacher is narrower.

    Args:
        student, teacher: widths of the features.
        by: how the matrix becomes orthogonal.
    """

    def __init__(self, student: int, teacher: int, by: str):
        super().__init__()
        self.by, self.shape = by, (teacher, student)
        size = max(self.shape)
        self.raw = nn.Parameter(torch.randn(size, size) / size**0.5)

    def weight(self) -> Tensor:
        """Return (teacher, student)."""
        return orthogonal(self.raw, self.by)[: self.shape[0], : self.shape[1]]

    def forward(self, feat_BD: Tensor) -> Tensor:
        return F.linear(feat_BD, self.weight().to(feat_BD.dtype))


class VkD(Method):
    """The student's features, turned but not distorted, are the teacher's normalised ones."""

    api = 1
    paper = "Miles, Elezi & Deng, V_kD: Improving Knowledge Distillation using Orthogonal Projections, CVPR 2024"
    year = 2024
    url = "https://arxiv.org/abs/2403.06213"
    equation = (
        "cross-entropy + weight · mean (P student - normalise(teacher))^2, P^T P = I, P: columns of exp(A), A = -A^T"
    )
    knowledge = "feature"
    teachers = (1, None)
    batch = "global"  # whitening couples samples

    @dataclass
    class Config:
        weight: float = option(1.0, "weight of the projection term", min=0.0)
        normalise: str = option(
            "layer",
            "what is done to the teacher's features; layer: zero mean and unit variance a sample, as in the authors' "
            "code; whiten: identity covariance over the batch; none",
            choices=("layer", "whiten", "none"),
        )
        form: str = option(
            "squared", "squared: mean squared difference; smooth: smooth L1, as in the authors' code",
            choices=("squared", "smooth"),
        )  # fmt: skip
        by: str = option(
            "exponential",
            "how the projection is made orthogonal; cayley is cheaper for wide features",
            choices=("exponential", "cayley"),
        )
        layers: list[float] = option(
            [1.0], "relative depths of the layers paired, both averaged over space; 0 first stage, 1 last",
            min=0.0, max=1.0,
        )  # fmt: skip
        student_layers: Optional[list[str]] = option(None, "dotted names of the student's layers, instead of depths")
        teacher_layers: Optional[list[str]] = option(None, "dotted names of the teacher's layers, instead of depths")

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        return layer_pairs("vkd", cfg.layers, cfg.student_layers, cfg.teacher_layers)

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        # Sequences with padding are averaged over their real tokens: into one place.
        of = PairedLayers.of(setup)
        self.layers = PairedLayers(_one_place(of.student), [_one_place(shapes) for shapes in of.teachers])
        self.projections = nn.ModuleList(
            Projection(width(ours), width(theirs), cfg.by) for ours, theirs in self.layers.shapes
        )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        normalise = NORMALISED[self.cfg.normalise]
        pairs = self.layers.all_maps(batch)
        losses = [
            projection_loss(projection(as_vector(ours)), normalise(as_vector(theirs)), self.cfg.form)
            for projection, (ours, theirs) in zip(self.projections, pairs, strict=True)
        ]
        return {"projection": self.cfg.weight * total(losses)}


def _one_place(shapes: Sequence[Shape]) -> list[Shape]:
    return [(1, shape[1]) if len(shape) == 2 else shape for shape in shapes]
