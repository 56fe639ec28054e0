"""Multi-Label Knowledge Distillation. Yang et al., ICCV 2023. https://arxiv.org/abs/2308.06453

Of the paper's two parts the distillation of logits (section 3.2): each class is a question of its own, answered yes or
no. Their label-wise embeddings (section 3.3) are left out. They compare, among the images that have a class and among
the classes that an image has, the distances of one embedding a class. Those come from a decoder with a query a class,
which is the head of their networks, teacher's and student's; networks whose classifier reads one pooled embedding, as
timm's do, have none, and one that a method trained on top would neither be the teacher's nor ship. Besides, a label is
here the number of a set of classes, and a method is not told which classes those are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from kdtool import Batch, Method, Stage, option
from kdtool.losses import at_least_fp32


def binary_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """Return Σ_k KL((p_k, 1 - p_k) || (q_k, 1 - q_k)), mean over samples: a scalar (equation 4).

    p and q are the sigmoids of the teacher's and the student's logits. The gradient by a student's logit is
    (q_k - p_k) / N.

    Args:
        student: (N, K) logits.
        teacher: (N, K) logits.

    Raises:
        ValueError: their shapes differ.
    """
    if student.shape != teacher.shape:
        raise ValueError(f"shapes differ: student {tuple(student.shape)}, teacher {tuple(teacher.shape)}")
    student, teacher = at_least_fp32(student), at_least_fp32(teacher)
    yes, no = teacher.sigmoid(), (-teacher).sigmoid()
    each = yes * (F.logsigmoid(teacher) - F.logsigmoid(student)) + no * (
        F.logsigmoid(-teacher) - F.logsigmoid(-student)
    )
    return each.sum(1).mean()


class MLD(Method):
    """The student matches the teacher's probability of each class on its own."""

    api = 1
    paper = "Yang et al., Multi-Label Knowledge Distillation, ICCV 2023"
    year = 2023
    url = "https://arxiv.org/abs/2308.06453"
    equation = "cross-entropy + weight · Σ_k KL((p_k, 1 - p_k) || (q_k, 1 - q_k))"
    knowledge = "response"
    targets: ClassVar[frozenset[str]] = frozenset({"single", "multi"})

    @dataclass
    class Config:
        weight: float = option(
            1.0, "weight of the binary terms; the authors' 10 stands beside a cross-entropy summed over 64 images",
            min=0.0,
        )  # fmt: skip
        hard_weight: float = option(1.0, "weight of the hard labels", min=0.0)

    def loss(self, batch: Batch) -> dict[str, Any]:
        return {"binary": self.cfg.weight * binary_kl(batch.student.logits, batch.teachers[0].logits)}

    def stages(self) -> list[Stage]:
        return [Stage("distill", self.loss, task_weight=self.cfg.hard_weight)]
