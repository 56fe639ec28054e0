"""Knowledge Distillation Based on Transformed Teacher Matching. Zheng & Yang, ICLR 2024.
https://arxiv.org/abs/2402.11148

Only the teacher is softened: its probabilities are raised to the power 1 / T and normalised. The student is compared
at T = 1, and nothing is multiplied by T^2. The weighted form, ``wttm``, is the file beside this one. The paper tunes T
and the weight by pair; the defaults here, T = 10 and 45, are the example of the authors' code (vgg8 from vgg13).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtool import Batch, Method, option
from kdtool.losses import at_least_fp32, ensemble_logits


def transformed_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return KL(softmax(teacher / T) || softmax(student)), mean over the batch, without T^2.

    Args:
        student_logits: (B, K).
        teacher_logits: (B, K).
        temperature: T > 0; the paper's gamma is 1 / T.
    """
    return _divergence(student_logits, teacher_logits, temperature).mean()


def weighted_transformed_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return the mean over the batch of U · KL(softmax(teacher / T) || softmax(student)).

    U = sum of p^(1 / T) over the classes, p = softmax(teacher): 1 for a sure teacher, K^(1 - 1/T) for a uniform one.
    Arguments are those of ``transformed_kl``.
    """
    weight_B = power_sum(teacher_logits, temperature)
    return (weight_B * _divergence(student_logits, teacher_logits, temperature)).mean()


def power_sum(logits: Tensor, temperature: float) -> Tensor:
    """Return (B,): the sum of softmax(logits)^(1 / T) over the classes, in at least fp32."""
    return torch.logsumexp(F.log_softmax(at_least_fp32(logits), dim=1) / temperature, dim=1).exp()


def _divergence(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    log_s_BK = F.log_softmax(at_least_fp32(student_logits), dim=1)
    log_t_BK = F.log_softmax(at_least_fp32(teacher_logits) / temperature, dim=1)
    return F.kl_div(log_s_BK, log_t_BK, reduction="none", log_target=True).sum(1)


class TTM(Method):
    """KD without a temperature on the student's side, which regularises by the student's Rényi entropy."""

    api = 1
    paper = "Zheng & Yang, Knowledge Distillation Based on Transformed Teacher Matching, ICLR 2024"
    year = 2024
    url = "https://arxiv.org/abs/2402.11148"
    equation = "cross-entropy + weight · KL(softmax(teacher / T) || softmax(student))"
    knowledge = "response"
    teachers = (1, None)

    @dataclass
    class Config:
        temperature: float = option(10.0, "T of the teacher alone, 1 / gamma of the paper", min=0.01)
        weight: float = option(45.0, "beta, weight of the soft term", min=0.0)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        # What is transformed is a distribution, so several teachers are averaged as they are, at T = 1.
        teacher = ensemble_logits([out.logits for out in batch.teachers])
        return {"kl": self.cfg.weight * transformed_kl(batch.student.logits, teacher, self.cfg.temperature)}
