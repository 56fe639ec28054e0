"""MiniLLM: Knowledge Distillation of Large Language Models. Gu et al., ICLR 2024. https://arxiv.org/abs/2306.08543

The reverse KL makes the student seek what the teacher says mostly, instead of spreading over all that it may say. The
paper's gradient (Eq. 3 to 7) has two parts: that of the next token, which is this KL over all of the vocabulary
(the "single-step decomposition"), and a policy gradient of what follows, of text that the student writes. Here is the
first, on given text; the second is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kdtool import Batch, Method, Stage, option
from kdtool.losses import ensemble_logits
from kdtool_methods._divergences import kl, log_probabilities


def reverse_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(softmax(student / T) || softmax(teacher / T)), mean over the batch; Eq. 1 for one token.

    Args:
        student_logits: (B, K).
        teacher_logits: (B, K).
        temperature: T > 0.
    """
    return kl(log_probabilities(student_logits, temperature), log_probabilities(teacher_logits, temperature))


class MiniLLM(Method):
    """The reverse KL of each row: MiniLLM's gradient of a single step."""

    api = 1
    paper = "Gu et al., MiniLLM: Knowledge Distillation of Large Language Models, ICLR 2024"
    year = 2024
    url = "https://arxiv.org/abs/2306.08543"
    equation = "hard_weight · cross-entropy + weight · KL(softmax(student / T) || softmax(teacher / T))"
    knowledge = "response"
    teachers = (1, None)

    @dataclass
    class Config:
        temperature: float = option(1.0, "T, softens both distributions", min=0.01)
        weight: float = option(1.0, "weight of the reverse KL", min=0.0)
        hard_weight: float = option(0.0, "weight of the hard labels", min=0.0)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        cfg = self.cfg
        teacher = ensemble_logits([out.logits for out in batch.teachers], temperature=cfg.temperature)
        return {"reverse": cfg.weight * reverse_kl(batch.student.logits, teacher, cfg.temperature)}

    def stages(self) -> list[Stage]:
        return [Stage("distill", self.loss, task_weight=self.cfg.hard_weight)]
