"""Logit Standardization in Knowledge Distillation. Sun et al., CVPR 2024. https://arxiv.org/abs/2403.01427

A shared temperature asks the student to match the range of the teacher's logits; with each row standardised first,
only their relations within a sample count. The deviation is that of a sample (K - 1), as in the authors' code, which
also adds 1e-7 to it; the paper's equation has neither to say. Both networks' rows are standardised, the student's with
gradient. T = 2, a weight of 9 and hard labels of 0.1 are the paper's on CIFAR-100.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kdtool import Batch, Method, Stage, option
from kdtool.losses import at_least_fp32, ensemble_logits, softened_kl

GUARD = 1e-7  # added to the deviation, as in the authors' code


def standardise(logits: Tensor) -> Tensor:
    """Return each row of logits (B, K) with mean 0 and sample deviation 1, in at least fp32.

    A constant row becomes zeros; its deviation then has no gradient, where that of a square root would be infinite.

    Raises:
        ValueError: fewer than two classes, which have no sample deviation.
    """
    if logits.shape[1] < 2:
        raise ValueError("standardised logits need at least two classes")
    logits = at_least_fp32(logits)
    centred_BK = logits - logits.mean(1, keepdim=True)
    # Squares of huge logits overflow: relative to the largest entry they do not.
    peak_B1 = centred_BK.detach().abs().amax(1, keepdim=True)
    varies_B1 = peak_B1 > 0
    relative_BK = torch.where(varies_B1, centred_BK, 1.0) / torch.where(varies_B1, peak_B1, 1.0)
    spread_B1 = (relative_BK.square().sum(1, keepdim=True) / (logits.shape[1] - 1)).sqrt()
    return centred_BK / (peak_B1 * spread_B1 + GUARD)


def standardised_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return T^2 · KL(softmax(z_teacher / T) || softmax(z_student / T)) of standardised logits z, mean over the batch.

    Args:
        student_logits: (B, K), K >= 2.
        teacher_logits: (B, K).
        temperature: T > 0, the paper's base temperature.

    Raises:
        ValueError: fewer than two classes.
    """
    return softened_kl(standardise(student_logits), standardise(teacher_logits), temperature)


class LSKD(Method):
    """KD of standardised logits: the student need not reach the teacher's range, only its relations."""

    api = 1
    paper = "Sun et al., Logit Standardization in Knowledge Distillation, CVPR 2024"
    year = 2024
    url = "https://arxiv.org/abs/2403.01427"
    equation = (
        "hard_weight · cross-entropy + weight · T^2 · KL(softmax(z_teacher / T) || softmax(z_student / T)), "
        "z: a sample's logits, less their mean, over their deviation"
    )
    knowledge = "response"
    teachers = (1, None)

    @dataclass
    class Config:
        temperature: float = option(2.0, "T, softens both distributions of standardised logits", min=0.01)
        weight: float = option(9.0, "weight of the soft term", min=0.0)
        hard_weight: float = option(0.1, "weight of the hard labels", min=0.0)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        temperature = self.cfg.temperature
        # Each teacher has a range of its own, so each is standardised before their probabilities are averaged.
        teacher = ensemble_logits([standardise(out.logits) for out in batch.teachers], temperature=temperature)
        return {"kl": self.cfg.weight * softened_kl(standardise(batch.student.logits), teacher, temperature)}

    def stages(self) -> list[Stage]:
        return [Stage("distill", self.loss, task_weight=self.cfg.hard_weight)]
