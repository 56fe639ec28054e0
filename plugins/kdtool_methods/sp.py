"""Similarity-Preserving Knowledge Distillation. Tung & Mori, ICCV 2019. https://arxiv.org/abs/1907.09682

The default weight of 3000 is that of the common reimplementations, of which the authors verified one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

import torch
from torch import Tensor

from kdtool import Batch, Method, Taps, option
from kdtool.layers import layer_pairs, paired_stages
from kdtool.losses import at_least_fp32, gram


def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared difference of the row-normalised Gram matrices of student and teacher, over B^2.

    Args:
        student: features of any shape (B, ...), flattened per sample.
        teacher: features of the same B; all other sizes may differ.

    Raises:
        ValueError: the batches differ in size.
    """
    if len(student) != len(teacher):
        raise ValueError(f"batches differ: student {len(student)}, teacher {len(teacher)}")
    difference_BB = _normalised_gram(student) - _normalised_gram(teacher)
    return difference_BB.square().sum() / len(student) ** 2


def _normalised_gram(feat: Tensor) -> Tensor:
    """Return (B, B): inner products of the flattened samples, each row divided by its L2 norm."""
    gram_BB = gram(at_least_fp32(feat).flatten(1))
    norm_B1 = gram_BB.norm(dim=1, keepdim=True)
    # A sample without any activation has a zero row; dividing it by a tiny number would give it a huge gradient.
    return gram_BB / torch.where(norm_B1 > 0, norm_B1, 1.0)


class SP(Method):
    """Samples that are alike for the teacher become alike for the student; their features may differ in every size."""

    api = 1
    paper = "Tung & Mori, Similarity-Preserving Knowledge Distillation, ICCV 2019"
    year = 2019
    url = "https://arxiv.org/abs/1907.09682"
    equation = (
        "cross-entropy + weight / B^2 · sum over layers ||G_student - G_teacher||_F^2, "
        "G: Gram matrix of the batch's flattened features, rows divided by their L2 norms"
    )
    knowledge = "relation"
    teachers = (1, None)
    batch = "global"

    @dataclass
    class Config:
        weight: float = option(3000.0, "gamma, weight of the similarity term", min=0.0)
        layers: list[float] = option(
            [1.0], "relative depths of the layers compared, on both sides; 0 first stage, 1 last", min=0.0, max=1.0
        )
        student_layers: Optional[list[str]] = option(None, "dotted names of the student's layers, instead of depths")
        teacher_layers: Optional[list[str]] = option(None, "dotted names of the teacher's layers, instead of depths")

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        return layer_pairs("sp", cfg.layers, cfg.student_layers, cfg.teacher_layers)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        losses = [similarity_loss(student, teacher) for student, teacher in paired_stages(batch)]
        return {"similarity": self.cfg.weight * sum(losses[1:], losses[0])}
