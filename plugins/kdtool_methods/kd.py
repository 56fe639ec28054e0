"""Distilling the Knowledge in a Neural Network. Hinton, Vinyals & Dean, 2015. https://arxiv.org/abs/1503.02531"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from kdtool import Batch, Method, Setup, Stage, option
from kdtool.errors import InputError
from kdtool.losses import ensemble_logits, softened_kl


class KD(Method):
    """The student matches the teacher's softened class probabilities (section 2)."""

    api = 1
    paper = "Hinton et al., Distilling the Knowledge in a Neural Network, 2015"
    year = 2015
    url = "https://arxiv.org/abs/1503.02531"
    equation = "(1 - alpha) · cross-entropy + alpha · T^2 · KL(softmax(teacher / T) || softmax(student / T))"
    knowledge = "response"
    teachers = (1, None)

    @dataclass
    class Config:
        temperature: float = option(4.0, "T, softens both distributions", min=0.01)
        alpha: float = option(
            0.9, "weight of the soft term; the hard labels get 1 - alpha, or hard_weight", min=0.0, max=1.0
        )
        hard_weight: Optional[float] = option(
            None,
            "weight of the hard labels; default: 1 - alpha. Beside another method papers often have 1 and alpha=1",
            min=0.0,
            late=True,
        )
        average: str = option(
            "probabilities", "what is averaged over several teachers", choices=("probabilities", "logits")
        )
        teacher_weights: Optional[list[float]] = option(None, "one weight a teacher; default: equal", min=0.0)

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        weights = cfg.teacher_weights
        if weights is not None and (len(weights) != len(setup.teachers) or sum(weights) <= 0):
            raise InputError(
                f"kd.teacher_weights={list(weights)} does not fit {len(setup.teachers)} teacher(s): "
                "give one weight a teacher, not all of them zero."
            )

    def loss(self, batch: Batch) -> dict[str, Any]:
        teacher = ensemble_logits(
            [out.logits for out in batch.teachers],
            self.cfg.teacher_weights,
            temperature=self.cfg.temperature,
            of=self.cfg.average,
        )
        return {"kl": self.cfg.alpha * softened_kl(batch.student.logits, teacher, self.cfg.temperature)}

    def stages(self) -> list[Stage]:
        hard_weight = 1 - self.cfg.alpha if self.cfg.hard_weight is None else self.cfg.hard_weight
        return [Stage("distill", self.loss, task_weight=hard_weight)]
