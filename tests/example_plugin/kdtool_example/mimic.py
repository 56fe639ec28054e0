"""Do Deep Nets Really Need to be Deep? Ba & Caruana, NIPS 2014. https://arxiv.org/abs/1312.6184"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from kdtool import Batch, Method, option


def mimic_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return half the mean squared difference of (B, K) logits (Eq. 1)."""
    return 0.5 * F.mse_loss(student_logits, teacher_logits)


class Mimic(Method):
    """The student regresses the teacher's logits."""

    api = 1
    paper = "Ba & Caruana, Do Deep Nets Really Need to be Deep?, NIPS 2014"
    year = 2014
    url = "https://arxiv.org/abs/1312.6184"
    equation = "cross-entropy + weight · 1/2 · ||student logits - teacher logits||^2"
    knowledge = "response"

    @dataclass
    class Config:
        weight: float = option(1.0, "weight of the regression", min=0.0)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"mimic": self.cfg.weight * mimic_loss(batch.student.logits, batch.teachers[0].logits)}
