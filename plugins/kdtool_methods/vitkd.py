"""ViTKD: Practical Guidelines for ViT Feature Knowledge Distillation. Yang et al., 2022.
https://arxiv.org/abs/2209.02432

Shallow layers are mimicked through linear layers; the deep one is generated: a half of the student's tokens are
replaced by a learned one, and convolutions have to give the teacher's tokens there. Tokens keep the grid that they
come in: maps (B, C, H, W) theirs, sequences (B, N, D) a line. Masks follow from sample and epoch, so that a resumed run
has the same.

The paper's weights, 3e-5 and 3e-6, multiply sums over the entries of a teacher's layer. Where they are not given
they are those for 196 tokens of 384, and as much a mean over others. The authors' code takes the first two blocks as
shallow layers; of twelve, these are the depths 0 and 0.09.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import torch
from torch import Tensor, nn

from kdtool import Batch, Method, Setup, Taps, option
from kdtool.errors import InputError
from kdtool.layers import resize_map, width
from kdtool.losses import at_least_fp32
from kdtool.method import Layer, Shape
from kdtool_methods._maps import require_equal, size_of, solid_maps, total
from kdtool_methods._masking import draws, masked_exactly

ENTRIES = 196 * 384  # of DeiT III-Small, the teacher whose weights are the paper's
MIMIC, GENERATE = 3e-5 * ENTRIES, 3e-6 * ENTRIES


def mimic_loss(student_tokens: Tensor, teacher_tokens: Tensor) -> Tensor:
    """Return the squared differences, summed over tokens and entries, mean over B (Eq. 2).

    Args:
        student_tokens: (B, N, D), through the linear layer.
        teacher_tokens: the same shape.

    Raises:
        ValueError: unequal shapes.
    """
    require_equal(student_tokens, teacher_tokens)
    difference = at_least_fp32(student_tokens) - at_least_fp32(teacher_tokens)
    return difference.square().sum() / len(difference)


def generation_loss(generated: Tensor, teacher_tokens: Tensor, masked_BN: Tensor) -> Tensor:
    """Return the squared differences of the masked tokens, summed over tokens and entries, mean over B (Eq. 5).

    Args:
        generated: (B, N, D).
        teacher_tokens: the same shape.
        masked_BN: (B, N) bool, True for the tokens that were hidden; others do not count.

    Raises:
        ValueError: unequal shapes.
    """
    require_equal(generated, teacher_tokens)
    difference = at_least_fp32(generated) - at_least_fp32(teacher_tokens)
    return torch.where(masked_BN[:, :, None], difference, 0.0).square().sum() / len(difference)


def as_tokens(feat_BCHW: Tensor) -> Tensor:
    """Return (B, H·W, C)."""
    return feat_BCHW.flatten(2).mT


class Generator(nn.Module):
    """Aligns a student's deep layer with the teacher's, hides some tokens and generates them from the others.

    Args:
        student, teacher: shapes of the features, without the batch.
    """

    def __init__(self, student: Shape, teacher: Shape):
        super().__init__()
        channels = width(teacher)
        self.size = size_of(teacher)
        self.align = _align(student, teacher)
        # Not zero, as in the authors' code: where all tokens are masked nothing else enters the convolutions.
        self.token = nn.Parameter(0.02 * torch.randn(1, channels, 1, 1))
        self.generate = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)
        )

    def forward(self, feat_BCHW: Tensor, masked_BN: Tensor) -> Tensor:
        """Return (B, N, D) of the teacher's tokens, N = H·W of its grid; ``masked_BN`` is bool."""
        aligned = resize_map(self.align(feat_BCHW), self.size)
        hidden = masked_BN.view(len(masked_BN), 1, *self.size)
        return as_tokens(self.generate(torch.where(hidden, self.token.to(aligned.dtype), aligned)))


def _align(student: Shape, teacher: Shape) -> nn.Module:
    # A linear layer of every token.
    return nn.Identity() if width(student) == width(teacher) else nn.Conv2d(width(student), width(teacher), 1)


class ViTKD(Method):
    """Shallow layers mimic the teacher's, the deep one generates the teacher's from a part of its tokens."""

    api = 1
    paper = "Yang et al., ViTKD: Practical Guidelines for ViT Feature Knowledge Distillation, 2022"
    year = 2022
    url = "https://arxiv.org/abs/2209.02432"
    equation = (
        "cross-entropy + mimic_weight · sum over shallow layers ||linear(student) - teacher||^2 / B + "
        "generate_weight / ratio · ||generate(masked student) - teacher||^2 / B on the masked tokens"
    )
    knowledge = "feature"
    teachers = (1, None)

    @dataclass
    class Config:
        mimic_weight: Optional[float] = option(
            None,
            "alpha, weight of the shallow layers, a sum over entries; default: 2.258 / entries of the teacher's layer, "
            "which is the paper's 3e-5 on 196 tokens of 384",
            min=0.0,
        )
        generate_weight: Optional[float] = option(
            None,
            "beta, weight of the deep layer, a sum over entries; default: 0.2258 / entries, the paper's 3e-6",
            min=0.0,
        )
        ratio: float = option(0.5, "lambda, share of the deep layer's tokens that is masked", min=0.01, max=1.0)
        shallow: list[float] = option(
            [0.0, 0.09], "relative depths of the layers that mimic, on both sides; 0 first stage, 1 last",
            min=0.0, max=1.0,
        )  # fmt: skip
        deep: float = option(1.0, "relative depth of the layer that is generated, on both sides", min=0.0, max=1.0)
        student_layers: Optional[list[str]] = option(
            None, "dotted names of the student's layers, the deep one last, instead of depths"
        )
        teacher_layers: Optional[list[str]] = option(
            None, "dotted names of the teacher's layers, the deep one last, instead of depths"
        )

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        sides: list[list[Layer]] = [
            list(named or [*cfg.shallow, cfg.deep]) for named in (cfg.student_layers, cfg.teacher_layers)
        ]
        if len(sides[0]) != len(sides[1]):
            raise InputError(
                f"vitkd: {len(sides[0])} student layer(s) {sides[0]} do not pair with {len(sides[1])} teacher layer(s) "
                f"{sides[1]}: give vitkd.student_layers and vitkd.teacher_layers as many names, the deep one last."
            )
        return Taps(student={"stages": sides[0]}, teacher={"stages": sides[1]})

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        self.student: list[Shape] = setup.student["stages"]
        self.of_teachers: list[list[Shape]] = [shapes["stages"] for shapes in setup.teachers]
        self.aligns = nn.ModuleList(
            nn.ModuleList(_align(ours, theirs) for ours, theirs in zip(self.student[:-1], shapes[:-1], strict=True))
            for shapes in self.of_teachers
        )
        self.generators = nn.ModuleList(Generator(self.student[-1], shapes[-1]) for shapes in self.of_teachers)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        mask_BN = batch.student.mask
        ours = solid_maps(batch.student.taps["stages"], self.student, mask_BN)
        mimics, generations = [], []
        for number, (out, shapes) in enumerate(zip(batch.teachers, self.of_teachers, strict=True)):
            theirs = solid_maps(out.taps["stages"], shapes, mask_BN)
            mimics += self.mimic(number, ours[:-1], theirs[:-1])
            generations.append(self.generation(number, batch, ours[-1], theirs[-1]))
        terms = {"mimic": total(mimics)} if mimics else {}
        return {**terms, "generation": total(generations)}

    def mimic(self, number: int, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> list[Tensor]:
        """Return the weighted losses of the shallow layers' maps for one teacher."""
        losses = []
        for align, student, teacher in zip(self.aligns[number], ours, theirs, strict=True):  # type: ignore[call-overload]
            size = teacher.shape[2], teacher.shape[3]
            loss = mimic_loss(as_tokens(resize_map(align(student), size)), as_tokens(teacher))
            losses.append(_weight(self.cfg.mimic_weight, MIMIC, teacher) * loss)
        return losses

    def generation(self, number: int, batch: Batch, ours: Tensor, theirs: Tensor) -> Tensor:
        """Return the weighted loss of the deep layer's maps for one teacher."""
        count = theirs.shape[2] * theirs.shape[3]
        masked_BN = masked_exactly(draws(batch.index, batch.epoch, number, count), self.cfg.ratio)
        loss: Tensor = generation_loss(self.generators[number](ours, masked_BN), as_tokens(theirs), masked_BN)
        weight: float = _weight(self.cfg.generate_weight, GENERATE, theirs) / self.cfg.ratio
        return weight * loss


def _weight(given: float | None, of_mean: float, teacher: Tensor) -> float:
    return of_mean / math.prod(teacher.shape[1:]) if given is None else float(given)
