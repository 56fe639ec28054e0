"""Knowledge Distillation from A Stronger Teacher. Huang et al., NeurIPS 2022. https://arxiv.org/abs/2205.10536

The authors' code adds 1e-8 to the denominator of Pearson's correlation. Where probabilities are small (classes that
hardly appear in a batch, of many) that is no rounding guard: it silences the column. The paper's equation has no
such number, so the default is none; ``eps=1e-8`` is the code's.

beta = gamma = 2 are the paper's (in the code both are 1, under a weight of 2 for their sum). T is 1 on ImageNet and 4
on CIFAR-100. Where the teacher is sure of nearly every training image its probabilities at T = 1 are the hard labels
over again, and so are their correlations; the default is 4, as in the other methods that soften.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtool import Batch, Method, option
from kdtool.losses import at_least_fp32, ensemble_logits


def relation_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, beta: float, gamma: float, eps: float = 0.0
) -> Tensor:
    """Return T^2 · (beta · inter-class + gamma · intra-class), each part 1 - mean Pearson correlation.

    Args:
        student_logits: (B, K).
        teacher_logits: (B, K).
        temperature: T > 0.
        beta: weight of the inter-class part: correlations of samples, over classes.
        gamma: weight of the intra-class part: correlations of classes, over the batch.
        eps: added to the product of the norms, as in the authors' code; 0: Pearson's correlation.
    """
    inter, intra = relation_parts(student_logits, teacher_logits, temperature, eps)
    return beta * inter + gamma * intra


def relation_parts(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, eps: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return T^2 times the inter-class and the intra-class distance, in [0, 2 T^2].

    A row or column that is constant correlates with nothing: its correlation is 0 and has no gradient.
    """
    log_student = F.log_softmax(at_least_fp32(student_logits) / temperature, dim=1)
    log_teacher = F.log_softmax(at_least_fp32(teacher_logits) / temperature, dim=1)
    inter = 1 - _pearson(log_student, log_teacher, 1, eps).mean()
    intra = 1 - _pearson(log_student, log_teacher, 0, eps).mean()
    return temperature**2 * inter, temperature**2 * intra


def _pearson(log_p: Tensor, log_q: Tensor, dim: int, eps: float) -> Tensor:
    """Return the correlations of exp(log_p) and exp(log_q) along ``dim``."""
    direction_p, norm_p = _centred(log_p, dim)
    direction_q, norm_q = _centred(log_q, dim)
    correlation = (direction_p * direction_q).sum(dim)
    if not eps:
        return correlation
    product = norm_p * norm_q
    return correlation * (product / (product + eps)).squeeze(dim)


def _centred(log_p: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return the centred exp(log_p) as unit vectors along ``dim`` (zero where constant) and their norms.

    A correlation ignores scale, so each vector is divided by its largest entry before the exponential: none
    underflows, however small the probabilities.
    """
    peak = log_p.detach().amax(dim, keepdim=True)
    relative = (log_p - peak).exp()
    centred = relative - relative.mean(dim, keepdim=True)
    # What is left of a constant vector is rounding (entries are near 1); its direction would be noise.
    size = centred.detach().abs().amax(dim, keepdim=True)
    varies = size > 8 * torch.finfo(log_p.dtype).eps
    centred = torch.where(varies, centred, 0.0) / torch.where(varies, size, 1.0)
    norm = centred.norm(dim=dim, keepdim=True)  # above 1 where the vector varies
    return centred / torch.where(varies, norm, 1.0), norm * size * peak.exp()


class DIST(Method):
    """The student keeps the teacher's relations, of classes within a sample and of samples within a class."""

    api = 1
    paper = "Huang et al., Knowledge Distillation from A Stronger Teacher, NeurIPS 2022"
    year = 2022
    url = "https://arxiv.org/abs/2205.10536"
    equation = (
        "cross-entropy + T^2 · (beta · mean over samples (1 - Pearson) + gamma · mean over classes (1 - Pearson)) "
        "of softmax(teacher / T) and softmax(student / T)"
    )
    knowledge = "response"
    teachers = (1, None)
    batch = "global"

    @dataclass
    class Config:
        temperature: float = option(
            4.0, "T, softens both distributions; the paper: 4 on CIFAR-100, 1 on ImageNet", min=0.01
        )
        beta: float = option(2.0, "weight of the inter-class part (rows: samples)", min=0.0)
        gamma: float = option(2.0, "weight of the intra-class part (columns: classes)", min=0.0)
        eps: float = option(0.0, "added to the correlation's denominator; the authors' code: 1e-8", min=0.0)

    def loss(self, batch: Batch) -> dict[str, Any]:
        temperature = self.cfg.temperature
        teacher = ensemble_logits([out.logits for out in batch.teachers], temperature=temperature)
        inter, intra = relation_parts(batch.student.logits, teacher, temperature, self.cfg.eps)
        return {"inter": self.cfg.beta * inter, "intra": self.cfg.gamma * intra}
