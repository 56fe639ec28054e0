"""Do Deep Nets Really Need to be Deep? Ba & Caruana, NIPS 2014. https://arxiv.org/abs/1312.6184
Distilling Task-Specific Knowledge from BERT into Simple Neural Networks. Tang et al., 2019.
https://arxiv.org/abs/1903.12136

The papers write the squared norm of a sample's difference, Ba & Caruana half of it; here it is the mean over the
classes too, as frameworks have it and as Tang et al. call it, so that the weight does not depend on their number.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kdtool import Batch, Method, Stage, option
from kdtool.losses import at_least_fp32, ensemble_logits


def logit_mse(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return the mean over all entries of the squared difference of two sets of logits, (B, K) each.

    Raises:
        ValueError: unequal shapes.
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(f"shapes differ: student {tuple(student_logits.shape)}, teacher {tuple(teacher_logits.shape)}")
    return (at_least_fp32(student_logits) - at_least_fp32(teacher_logits)).square().mean()


class Logits(Method):
    """The student regresses the teacher's logits, without hard labels unless they are given a weight."""

    api = 1
    paper = (
        "Ba & Caruana, Do Deep Nets Really Need to be Deep?, NIPS 2014; Tang et al., Distilling Task-Specific "
        "Knowledge from BERT into Simple Neural Networks, 2019"
    )
    year = 2014
    url = "https://arxiv.org/abs/1312.6184"
    equation = "hard_weight · cross-entropy + (1 - hard_weight) · mean (student's - teacher's logits)^2"
    knowledge = "response"
    teachers = (1, None)

    @dataclass
    class Config:
        hard_weight: float = option(
            0.0,
            "weight of the hard labels, the alpha of Tang et al., who found 0 best; the squared error gets the rest",
            min=0.0,
            max=1.0,
        )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        teacher = ensemble_logits([out.logits for out in batch.teachers], of="logits")
        return {"mse": (1 - self.cfg.hard_weight) * logit_mse(batch.student.logits, teacher)}

    def stages(self) -> list[Stage]:
        return [Stage("distill", self.loss, task_weight=self.cfg.hard_weight)]
