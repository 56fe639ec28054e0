"""Sequence-Level Knowledge Distillation. Kim & Rush, EMNLP 2016. https://arxiv.org/abs/1606.07947

The student learns what the teacher writes as if it were the truth: its mode in the place of the whole distribution over
texts (section 3.2). The paper searches the mode by beams; here the teacher writes greedily, or draws, which the task's
options say. ``weight`` is all there is: the given answers are not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kdtool import Batch, Method, Stage, option


class SeqKD(Method):
    """Cross-entropy on the teacher's text."""

    api = 1
    paper = "Kim & Rush, Sequence-Level Knowledge Distillation, EMNLP 2016"
    year = 2016
    url = "https://arxiv.org/abs/1606.07947"
    equation = "weight · cross-entropy(student, the teacher's text)"
    knowledge = "response"
    teachers = (1, 1)

    @dataclass
    class Config:
        weight: float = option(1.0, "weight of the cross-entropy", min=0.0)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"sequence": self.cfg.weight * batch.task_loss(batch.student.logits)}

    def stages(self) -> list[Stage]:
        return [Stage("distill", self.loss, task_weight=0.0, teacher_writes=True)]
