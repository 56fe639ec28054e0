"""Distilling Step-by-Step! Outperforming Larger Language Models with Less Training Data and Smaller Model Sizes.
Hsieh et al., Findings of ACL 2023. https://arxiv.org/abs/2305.02301

A teacher's text gives for each question a label and a rationale, and a student learns both as tasks of their own, told
apart by what the question begins with: L = L_label + weight · L_rationale (the authors' code has
alpha · L_label + (1 - alpha) · L_rationale, which is the same up to a factor). Each is the mean over its own tokens of
the global batch, which is therefore taken whole, without memory saved on logits. `kdtool generate --style rationale`
writes such data: the column "kind" tells the two apart, and "weight" how much a sample counts among its like.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtool import Batch, Method, Setup, Stage, option
from kdtool.losses import at_least_fp32

RATIONALE = "rationale"


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean of the cross-entropy over the samples that have a label; 0 where all weights are 0.

    Args:
        logits: (B, K).
        labels: (B,) int64, -1 for none.
        weights: (B,), at least 0.
    """
    losses = F.cross_entropy(at_least_fp32(logits), labels, ignore_index=-1, reduction="none")
    total = (weights * (labels >= 0)).sum()
    return (losses * weights).sum() / total.where(total > 0, 1.0)


class StepByStep(Method):
    """Labels and a teacher's rationales as two tasks; the teacher is in the data."""

    api = 1
    paper = "Hsieh et al., Distilling Step-by-Step!, Findings of ACL 2023"
    year = 2023
    url = "https://arxiv.org/abs/2305.02301"
    equation = "cross-entropy(labels) + weight · cross-entropy(rationales)"
    knowledge = "response"
    teachers = (0, 0)
    batch = "global"
    hard_labels = True

    @dataclass
    class Config:
        weight: float = option(1.0, "weight of the rationales; 0: labels alone", min=0.0)

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        ones = torch.ones(setup.num_samples)
        rationale = setup.kinds.get(RATIONALE, torch.zeros_like(ones))
        label = sum((each for kind, each in setup.kinds.items() if kind != RATIONALE), torch.zeros_like(ones))
        # What the data call neither is learnt as labels are.
        label = torch.where((label > 0) | (rationale > 0), label, ones)
        self.register_buffer("label", label, persistent=False)
        self.register_buffer("rationale", rationale, persistent=False)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        logits, labels, index = batch.student.logits, batch.labels, batch.index
        found = {"label": weighted_cross_entropy(logits, labels, self.get_buffer("label")[index])}
        if self.cfg.weight:
            rationale = weighted_cross_entropy(logits, labels, self.get_buffer("rationale")[index])
            found["rationale"] = self.cfg.weight * rationale
        return found

    def stages(self) -> list[Stage]:
        return [Stage("distill", self.loss, task_weight=0.0)]

    def remarks(self) -> list[str]:
        if self.get_buffer("rationale").any():
            return []
        return [
            'no sample is of the kind "rationale", so that this is a training on labels alone; '
            "`kdtool generate --style rationale` writes both"
        ]
