"""Training Data-efficient Image Transformers & Distillation through Attention. Touvron et al., ICML 2021.
https://arxiv.org/abs/2012.12877

A student with a distillation token (timm's ``deit_*_distilled``) learns the hard labels by its class token's classifier
and the teacher by the other token's; what it answers is the mean of both, as ever. A student with one classifier learns
both by that, which is the paper's comparison without a token.

The teacher's decision (Eq. 3), each with weight 1/2, is the paper's choice; ``labels="soft"`` is Eq. 2, with its
temperature 3 and weight 0.1. The authors' code divides the soft loss by the number of classes as well; this does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

import torch.nn.functional as F
from torch import Tensor

from kdtool import Batch, Method, Setup, Stage, Taps, option
from kdtool.losses import at_least_fp32, ensemble_logits, softened_kl

WEIGHT = {"hard": 0.5, "soft": 0.1}
CLASS, TOKEN = 0, 1  # timm's order of the two classifiers


def decision_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return the cross-entropy with the teacher's most likely class, mean over B (Eq. 3).

    Args:
        student_logits: (B, K).
        teacher_logits: (B, K).
    """
    return F.cross_entropy(at_least_fp32(student_logits), teacher_logits.argmax(1))


class DeiT(Method):
    """The teacher is learnt by a token of its own, where the student has one."""

    api = 1
    paper = "Touvron et al., Training Data-efficient Image Transformers & Distillation through Attention, ICML 2021"
    year = 2021
    url = "https://arxiv.org/abs/2012.12877"
    equation = (
        "(1 - alpha) · cross-entropy(class token) + alpha · cross-entropy(distillation token, teacher's decision); "
        "soft: alpha · T^2 · KL(softmax(teacher / T) || softmax(token / T))"
    )
    knowledge = "response"
    teachers = (1, None)

    @dataclass
    class Config:
        labels: str = option("hard", "the teacher's decision, or its soft labels", choices=("hard", "soft"))
        alpha: Optional[float] = option(
            None,
            "weight of the teacher; the hard labels get 1 - alpha; default: the paper's, 0.5 for hard and 0.1 for soft",
            min=0.0,
            max=1.0,
        )
        temperature: float = option(3.0, "T of soft labels", min=0.01)

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        return Taps(student={"heads": "heads"})

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        self.alpha: float = WEIGHT[cfg.labels] if cfg.alpha is None else cfg.alpha
        self.has_token = setup.student["heads"][0] > 1

    def remarks(self) -> list[str]:
        if self.has_token:
            return []
        return ["deit: the student has no distillation token, so its only classifier learns labels and teacher."]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        teacher = ensemble_logits([out.logits for out in batch.teachers], temperature=self.cfg.temperature)
        if not self.has_token:
            return {"teacher": self.alpha * self.distance(batch.student.logits, teacher)}
        heads_BHK = batch.student.taps["heads"]
        return {
            "labels": (1 - self.alpha) * batch.task_loss(heads_BHK[:, CLASS]),
            "teacher": self.alpha * self.distance(heads_BHK[:, TOKEN], teacher),
        }

    def distance(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Return the loss of (B, K) logits against the teacher."""
        if self.cfg.labels == "hard":
            return decision_loss(student_logits, teacher_logits)
        return softened_kl(student_logits, teacher_logits, self.cfg.temperature)

    def stages(self) -> list[Stage]:
        # The hard labels are the class token's, not those of the mean of both.
        return [Stage("distill", self.loss, task_weight=0.0 if self.has_token else 1 - self.alpha)]
