"""Towards Cross-Tokenizer Distillation: the Universal Logit Distillation Loss for LLMs. Boizard et al., TMLR 2024.
https://arxiv.org/abs/2402.12030

What two vocabularies have in common is not which token is likely, but how likely the likeliest is, and the next: the
Wasserstein distance with equal costs between all tokens is the L1 distance of the sorted probabilities. The weight 1.5
is the authors' code's. They pair an answer's i-th token with the i-th, whatever came before; here the rows are those
where both networks have read the same text (see the language task).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from kdtool import Batch, Method, Stage, option
from kdtool_methods._divergences import log_probabilities


def sorted_probability_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return the L1 distance of both networks' probabilities sorted downwards, summed over classes, mean over rows.

    Section 3.2; the narrower one is padded with zeros.

    Args:
        student_logits: (B, K).
        teacher_logits: (B, K'), of another vocabulary perhaps.
    """
    student_BK, teacher_BK = (
        log_probabilities(logits).exp().sort(dim=1, descending=True).values
        for logits in (student_logits, teacher_logits)
    )
    width = max(student_BK.shape[1], teacher_BK.shape[1])
    student_BK, teacher_BK = (F.pad(p, (0, width - p.shape[1])) for p in (student_BK, teacher_BK))
    return (student_BK - teacher_BK).abs().sum(1).mean()


class ULD(Method):
    """The student's sorted probabilities are to be the teacher's, whichever tokens they belong to."""

    api = 1
    paper = "Boizard et al., Towards Cross-Tokenizer Distillation: the Universal Logit Distillation Loss, TMLR 2024"
    year = 2024
    url = "https://arxiv.org/abs/2402.12030"
    equation = "cross-entropy + weight · sum_i |sort(softmax(student))_i - sort(softmax(teacher))_i|"
    knowledge = "response"
    teachers = (1, None)
    any_classes = True

    @dataclass
    class Config:
        weight: float = option(1.5, "weight of the distance", min=0.0)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        each = [sorted_probability_loss(batch.student.logits, out.logits) for out in batch.teachers]
        return {"sorted": self.cfg.weight * sum(each[1:], each[0]) / len(each)}

    def stages(self) -> list[Stage]:
        return [Stage("distill", self.loss)]
