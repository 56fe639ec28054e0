"""From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with Normalized Loss and Customized
Soft Labels. Yang et al., ICCV 2023. https://arxiv.org/abs/2303.13005

This is its part with a teacher; ``uskd`` is the one without. T = 3 and gamma = 3.5 are those of the authors' code on
CIFAR-100; on ImageNet T = 1 and gamma = 1.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtool import Batch, Method, option
from kdtool.losses import at_least_fp32


def normalized_loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, gamma: float, temperature: float
) -> Tensor:
    """Return the target part and gamma times the non-target part, mean over the labelled samples; zero without any.

    -t_y · log s_y of probabilities at T = 1, and -gamma · T^2 · sum over i ≠ y of N(t_i) · log N(s_i), N being the
    softened distribution over the classes other than the target.

    Args:
        student_logits: (B, K), K >= 2.
        teacher_logits: (B, K).
        labels: (B,) integer class, -1 for samples without a label: they contribute nothing.
        gamma: weight of the non-target part, which is zero for two classes.
        temperature: T > 0, of the non-target part.

    Raises:
        ValueError: fewer than two classes.
    """
    target, others = normalized_parts(student_logits, teacher_logits, labels, temperature)
    return target + gamma * others


def normalized_parts(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return the target and the non-target part, the latter with T^2. Arguments as those of ``normalized_loss``."""
    student_BK, teacher_BK = at_least_fp32(student_logits), at_least_fp32(teacher_logits)
    target_B = labels.clamp_min(0)
    log_s_B, log_t_B = (
        F.log_softmax(logits_BK, dim=1).gather(1, target_B[:, None]).squeeze(1)
        for logits_BK in (student_BK, teacher_BK)
    )
    log_n_s = F.log_softmax(other_logits(student_BK, target_B) / temperature, dim=1)
    n_t = F.softmax(other_logits(teacher_BK, target_B) / temperature, dim=1)
    parts_B = (-log_t_B.exp() * log_s_B, -(n_t * log_n_s).sum(1))
    target, others = (labelled_mean(part_B, labels) for part_B in parts_B)
    return target, temperature**2 * others


def other_logits(logits_BK: Tensor, target_B: Tensor) -> Tensor:
    """Return (B, K - 1): each row without its target's column.

    Raises:
        ValueError: fewer than two classes.
    """
    if logits_BK.shape[1] < 2:
        raise ValueError("a distribution over the other classes needs at least two classes")
    column_K = torch.arange(logits_BK.shape[1] - 1, device=logits_BK.device)
    return logits_BK.gather(1, column_K + (column_K >= target_B[:, None]))


def labelled_mean(values_B: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of the values of those samples whose label is not -1; zero where there are none."""
    labelled_B = labels >= 0
    return torch.where(labelled_B, values_B, 0.0).sum() / labelled_B.sum().clamp_min(1)


class NKD(Method):
    """The teacher's target probability, and its ranking of the other classes, normalised to sum to one."""

    api = 1
    paper = "Yang et al., From Knowledge Distillation to Self-Knowledge Distillation, ICCV 2023"
    year = 2023
    url = "https://arxiv.org/abs/2303.13005"
    equation = (
        "cross-entropy - t_y · log s_y - gamma · T^2 · sum over i ≠ y of N(t_i) · log N(s_i), "
        "N: softmax(logits / T) over the classes other than the target y"
    )
    knowledge = "response"
    teachers = (1, None)
    hard_labels = True

    @dataclass
    class Config:
        gamma: float = option(3.5, "weight of the non-target part; the authors' code: 1.5 on ImageNet", min=0.0)
        temperature: float = option(3.0, "T of the non-target part; the authors' code: 1 on ImageNet", min=0.01)
        weight: float = option(1.0, "weight of the target part", min=0.0)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        # Both parts are linear in the teacher's soft labels: the mean over teachers is the loss of their mean label.
        parts = [
            normalized_parts(batch.student.logits, out.logits, batch.labels, self.cfg.temperature)
            for out in batch.teachers
        ]
        target, others = (torch.stack(each).mean() for each in zip(*parts, strict=True))
        return {"target": self.cfg.weight * target, "others": self.cfg.gamma * others}
