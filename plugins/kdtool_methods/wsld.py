"""Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance Tradeoff Perspective. Zhou et al., ICLR 2021.
https://arxiv.org/abs/2102.00650

A sample's soft label counts for less where the student already beats the teacher at the hard label. T = 4 and a weight
of 2.25 are the settings on CIFAR-100, T = 2 and 2.5 those on ImageNet.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtool import Batch, Method, option
from kdtool.losses import at_least_fp32

GUARD = 1e-7  # added to the teacher's cross-entropy, as in the authors' code: a sure teacher's rounds to zero


def weighted_soft_loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return T^2 · (1 - exp(-ce_student / ce_teacher)) · H(softmax(teacher / T), softmax(student / T)).

    Mean over the labelled samples, zero where there is none; ce are cross-entropies of the hard labels at T = 1. The
    weight, in [0, 1], is a constant; H is a cross-entropy, not zero at equal logits.

    Args:
        student_logits: (B, K).
        teacher_logits: (B, K).
        labels: (B,) integer class, -1 for samples without a label: their weight is unknown, they contribute nothing.
        temperature: T > 0.
    """
    student_BK, teacher_BK = at_least_fp32(student_logits), at_least_fp32(teacher_logits)
    soft_B = -(F.softmax(teacher_BK / temperature, dim=1) * F.log_softmax(student_BK / temperature, dim=1)).sum(1)
    weight_B = soft_label_weight(student_BK, teacher_BK, labels)
    # Selected, not multiplied by zero.
    labelled_B = labels >= 0
    total = torch.where(labelled_B, weight_B * soft_B, 0.0).sum()
    return temperature**2 * total / labelled_B.sum().clamp_min(1)


@torch.no_grad()
def soft_label_weight(student_BK: Tensor, teacher_BK: Tensor, labels: Tensor) -> Tensor:
    """Return the weights (B,) in [0, 1] of the samples' soft labels, without gradient."""
    target_B = labels.clamp_min(0)
    ce_s_B, ce_t_B = (F.cross_entropy(logits_BK, target_B, reduction="none") for logits_BK in (student_BK, teacher_BK))
    return -torch.expm1(-ce_s_B / (ce_t_B + GUARD))


class WSLD(Method):
    """KD whose soft labels weigh less for samples on which the student is ahead of the teacher."""

    api = 1
    paper = "Zhou et al., Rethinking Soft Labels for Knowledge Distillation, ICLR 2021"
    year = 2021
    url = "https://arxiv.org/abs/2102.00650"
    equation = (
        "cross-entropy + weight · T^2 · (1 - exp(-ce_student / ce_teacher)) · "
        "H(softmax(teacher / T), softmax(student / T)), ce: a sample's cross-entropy at T = 1"
    )
    knowledge = "response"
    teachers = (1, None)
    hard_labels = True

    @dataclass
    class Config:
        temperature: float = option(4.0, "T, softens both distributions; the paper: 2 on ImageNet", min=0.01)
        weight: float = option(2.25, "alpha, weight of the soft labels; the paper: 2.5 on ImageNet", min=0.0)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        # The weight compares the student with a teacher, so each teacher has its own.
        soft = [
            weighted_soft_loss(batch.student.logits, out.logits, batch.labels, self.cfg.temperature)
            for out in batch.teachers
        ]
        return {"soft": self.cfg.weight * torch.stack(soft).mean()}
