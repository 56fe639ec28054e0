"""Decoupled Knowledge Distillation. Zhao et al., CVPR 2022. https://arxiv.org/abs/2203.08679

The authors' code masks the target class by subtracting 1000 from its logit, and takes the logarithm of a sum of
probabilities; both fail for large logits. Here the target class is left out of the second softmax, and both
logarithms of the first come from one logit, target against the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtool import Batch, Method, option
from kdtool.losses import at_least_fp32, ensemble_logits, within_one

PAPER_EPOCHS, PAPER_WARMUP = 240, 20  # of the CIFAR-100 experiments


def decoupled_loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, alpha: float, beta: float, temperature: float
) -> Tensor:
    """Return alpha · TCKD + beta · NCKD, mean over the labelled samples; zero where there is none.

    Args:
        student_logits: (B, K), K >= 2.
        teacher_logits: (B, K).
        labels: (B,) integer class, -1 for samples without a label: they contribute nothing.
        alpha: weight of the target-class part.
        beta: weight of the non-target-class part, which is zero for two classes.
        temperature: T > 0.

    Raises:
        ValueError: fewer than two classes.
    """
    target, others = decoupled_parts(student_logits, teacher_logits, labels, temperature)
    return alpha * target + beta * others


def decoupled_parts(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return TCKD and NCKD, each T^2 · KL(teacher || student), mean over the labelled samples.

    TCKD compares the two probabilities (target, not target), NCKD the distributions over the other classes.
    Arguments and errors are those of ``decoupled_loss``.
    """
    if student_logits.shape[1] < 2:
        raise ValueError("DKD needs at least two classes")
    labelled_B = labels >= 0
    target_B = labels.clamp_min(0)
    odds_S, log_q_S = _split(at_least_fp32(student_logits) / temperature, target_B)
    odds_T, log_q_T = _split(at_least_fp32(teacher_logits) / temperature, target_B)
    tckd_B = sum(
        torch.sigmoid(sign * odds_T) * (F.logsigmoid(sign * odds_T) - F.logsigmoid(sign * odds_S)) for sign in (1, -1)
    )
    nckd_B = (log_q_T.exp() * (log_q_T - log_q_S)).sum(1)
    count = labelled_B.sum().clamp_min(1)
    tckd, nckd = (torch.where(labelled_B, each_B, 0.0).sum() / count for each_B in (tckd_B, nckd_B))
    return temperature**2 * tckd, temperature**2 * nckd


def _split(logits_BK: Tensor, target_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log-odds (B,) of the target against the rest, and log-probabilities (B, K-1) among the rest.

    sigmoid(odds) is the target's probability and sigmoid(-odds) that of all others together.
    """
    column_K = torch.arange(logits_BK.shape[1] - 1, device=logits_BK.device)
    other_BK = column_K + (column_K >= target_B[:, None])
    rest_BK = logits_BK.gather(1, other_BK)
    odds_B = logits_BK.gather(1, target_B[:, None]).squeeze(1) - torch.logsumexp(rest_BK, dim=1)
    return odds_B, F.log_softmax(rest_BK, dim=1)


class DKD(Method):
    """KD split in two: how sure the teacher is of the target, and how it ranks the other classes."""

    api = 1
    paper = "Zhao et al., Decoupled Knowledge Distillation, CVPR 2022"
    year = 2022
    url = "https://arxiv.org/abs/2203.08679"
    equation = (
        "cross-entropy + warm-up · T^2 · (alpha · KL(b_teacher || b_student) + beta · KL(q_teacher || q_student)), "
        "b: (target, all others), q: softmax over the classes other than the target"
    )
    knowledge = "response"
    teachers = (1, None)
    hard_labels = True

    @dataclass
    class Config:
        alpha: float = option(1.0, "weight of the target-class part", min=0.0)
        beta: float = option(
            8.0,
            "weight of the other classes' part; the paper chooses it by pair on CIFAR-100, 0.5 on ImageNet",
            min=0.0,
        )
        temperature: float = option(4.0, "T, softens all distributions; the paper: 1 on ImageNet", min=0.01)
        warmup: Optional[int] = option(
            None,
            "epochs over which both weights rise to their full size, as min((epoch + 1) / warmup, 1); 0: none; "
            "default: the paper's 20 of 240 epochs, stretched to the run",
            min=0,
        )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        temperature = self.cfg.temperature
        teacher = ensemble_logits([out.logits for out in batch.teachers], temperature=temperature)
        target, others = decoupled_parts(batch.student.logits, teacher, batch.labels, temperature)
        rise = self.rise(batch)
        return {"target": rise * self.cfg.alpha * target, "others": rise * self.cfg.beta * others}

    def remarks(self) -> list[str]:
        if self.setup.num_classes > 2:
            return []
        return [
            "dkd: with two classes there is one class beside the target, so the term of the others is always 0 and "
            "beta changes nothing; kd says the same in one term."
        ]

    def rise(self, batch: Batch) -> Any:
        """Return the share of the weights that applies now, in (0, 1]."""
        warmup: int | None = self.cfg.warmup
        if warmup is None:
            return within_one((PAPER_EPOCHS * batch.progress + 1) / PAPER_WARMUP)
        return within_one((batch.epoch + 1) / max(warmup, 1))
