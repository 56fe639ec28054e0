"""From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with Normalized Loss and Customized
Soft Labels. Yang et al., ICCV 2023. https://arxiv.org/abs/2303.13005

This is its part without a teacher; ``nkd`` is the one with. The target's soft label is smoothed over the batch; those
of the other classes follow Zipf's law, by their rank in the student's own logits together with the "weak" logits of a
middle layer. alpha = beta = mu = 0.1 are those of the authors' code on CIFAR-100; on ImageNet 1, 0.1 and 0.005.

In the authors' code the target takes part in the ranking, and its place is left out afterwards: where it ranks first,
the best other class gets 1/2 before normalising, the next 1/3. Zipf's law of the other classes has 1, 1/2, 1/3, ...,
which is the default here; ``ranked="all"`` is the code's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtool import Batch, Method, Setup, Taps, option
from kdtool.layers import as_vector, token_mean, width
from kdtool.losses import at_least_fp32
from kdtool.method import Out
from kdtool_methods.nkd import labelled_mean, other_logits

SMOOTHING = 0.1  # of the weak logits' hard labels, as in the authors' code


def self_loss(
    logits: Tensor, weak_logits: Tensor, labels: Tensor, alpha: float, beta: float, mu: float, ranked: str = "others"
) -> Tensor:
    """Return alpha · target part + beta · non-target part + mu · weak part, means over the labelled samples.

    Args:
        logits: (B, K), the student's, K >= 2.
        weak_logits: (B, K), those of a middle layer; in the ranking they are constants.
        labels: (B,) integer class, -1 for samples without a label: they contribute nothing.
        alpha, beta, mu: weights of the three parts.
        ranked: "others": Zipf's law over the classes other than the target; "all": over all, the target left out
            afterwards.

    Raises:
        ValueError: fewer than two classes, or an unknown ``ranked``.
    """
    target, others, weak = self_parts(logits, weak_logits, labels, ranked)
    return alpha * target + beta * others + mu * weak


def self_parts(
    logits: Tensor, weak_logits: Tensor, labels: Tensor, ranked: str = "others"
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the target, the non-target and the weak part, unweighted. Arguments are those of ``self_loss``."""
    logits, weak_logits = at_least_fp32(logits), at_least_fp32(weak_logits)
    target_B = labels.clamp_min(0)
    log_s_B = F.log_softmax(logits, dim=1).gather(1, target_B[:, None]).squeeze(1)
    square_B = log_s_B.detach().exp().square()
    smooth_B = 1 + square_B - labelled_mean(square_B, labels)
    soft_BO = zipf_labels(logits.detach(), weak_logits.detach(), target_B, ranked)
    others_B = -(soft_BO * F.log_softmax(other_logits(logits, target_B), dim=1)).sum(1)
    weak_B = F.cross_entropy(weak_logits, target_B, reduction="none", label_smoothing=SMOOTHING)
    target, others, weak = (labelled_mean(part, labels) for part in (-smooth_B * log_s_B, others_B, weak_B))
    return target, others, weak


@torch.no_grad()
def zipf_labels(logits_BK: Tensor, weak_BK: Tensor, target_B: Tensor, ranked: str) -> Tensor:
    """Return (B, K - 1), rows summing to 1: the soft labels of the classes other than the target, in their order.

    A class's standing is its share of what the target leaves, in the student's and in the weak probabilities.
    """
    if ranked not in ("others", "all"):
        raise ValueError(f"ranked must be 'others' or 'all', not {ranked!r}")
    own_BO, weak_BO = other_logits(logits_BK, target_B), other_logits(weak_BK, target_B)
    standing_BO = F.softmax(own_BO, dim=1) + F.softmax(weak_BO, dim=1)
    order_BO = standing_BO.argsort(dim=1, descending=True, stable=True)
    rank_BO = 1.0 + order_BO.argsort(dim=1).to(logits_BK.dtype)
    if ranked == "all":
        # The target's own standing is its odds; it pushes down each class that it precedes.
        odds_B = sum(
            (each_BK.gather(1, target_B[:, None]) - torch.logsumexp(other_BO, dim=1, keepdim=True)).exp()
            for each_BK, other_BO in ((logits_BK, own_BO), (weak_BK, weak_BO))
        )
        rank_BO = rank_BO + (standing_BO < odds_B)
    zipf_BO = 1 / rank_BO
    return zipf_BO / zipf_BO.sum(1, keepdim=True)


class USKD(Method):
    """The student's own soft labels: its smoothed target, and Zipf's law over its ranking of the other classes."""

    api = 1
    paper = "Yang et al., From Knowledge Distillation to Self-Knowledge Distillation, ICCV 2023"
    year = 2023
    url = "https://arxiv.org/abs/2303.13005"
    equation = (
        "cross-entropy - alpha · (1 + s_y^2 - mean s_y^2) · log s_y - beta · sum over i ≠ y of zipf_i · log N(s_i) "
        "+ mu · smoothed cross-entropy(weak logits), N: softmax over the classes other than the target y"
    )
    knowledge = "response"
    teachers = (0, 0)
    batch = "global"
    hard_labels = True

    @dataclass
    class Config:
        alpha: float = option(0.1, "weight of the target part; the authors' code: 1 on ImageNet", min=0.0)
        beta: float = option(0.1, "weight of the other classes' part", min=0.0)
        mu: float = option(0.1, "weight of the weak logits' part; the authors' code: 0.005 on ImageNet", min=0.0)
        ranked: str = option(
            "others",
            "which classes share Zipf's law: the others than the target; or all, the target left out afterwards, as "
            "in the authors' code",
            choices=("others", "all"),
        )
        layer: float = option(0.67, "relative depth of the weak logits' layer: the third of four", min=0.0, max=1.0)
        student_layer: Optional[str] = option(None, "dotted name of that layer, instead of a depth")

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        return Taps(student={"middle": cfg.student_layer or cfg.layer})

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        self.classifier = nn.Linear(width(setup.student["middle"]), setup.num_classes)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        weak = self.classifier(_pooled(batch.student))
        target, others, weak = self_parts(batch.student.logits, weak, batch.labels, self.cfg.ranked)
        return {"target": self.cfg.alpha * target, "others": self.cfg.beta * others, "weak": self.cfg.mu * weak}


def _pooled(out: Out) -> Tensor:
    """Return the middle feature as (B, C): the mean over space, or over the real tokens."""
    return as_vector(token_mean(out.taps["middle"], out.mask))
