"""DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter. Sanh et al., 2019.
https://arxiv.org/abs/1910.01108

The paper names three losses and gives no weights; the weights and T = 2 are those of the authors' code. There the
networks are language models, here they classify, so that the hard labels take the place of the masked words. The
authors give the student every other layer of its teacher to start from; here it starts as it is given. Their widths
agree; where they do not, a learned linear layer takes the student's states to the teacher's width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from torch import Tensor

from kdtool import Batch, Method, Setup, Stage, Taps, option
from kdtool.layers import token_weights, unit_rows
from kdtool.losses import ensemble_logits, softened_kl
from kdtool_methods._tokens import Projections, real_tokens, side_by_side


def cosine_loss(s_BLD: Tensor, t_BLD: Tensor, mask_BL: Tensor | None = None) -> Tensor:
    """Return 1 - cosine of two token sequences' states, mean over the real tokens of the batch; 0 where none is real.

    Args:
        s_BLD, t_BLD: states of equal shape. A state of zeros has cosine 0 with any other.
        mask_BL: bool, True for real tokens, or what each weighs, 0 for padding; None: all are real.

    Raises:
        ValueError: unequal shapes, or a mask that does not fit.
    """
    if s_BLD.shape != t_BLD.shape:
        raise ValueError(f"shapes differ: student {tuple(s_BLD.shape)}, teacher {tuple(t_BLD.shape)}")
    weight_BL, student = real_tokens(s_BLD, mask_BL)
    _, teacher = real_tokens(t_BLD, mask_BL)
    student, teacher = (unit_rows(each.flatten(0, 1)).view_as(each) for each in (student, teacher))
    return (weight_BL * (1 - (student * teacher).sum(2))).sum() / weight_BL.sum().clamp_min(1)


class DistilBERT(Method):
    """Soft labels, hard labels, and hidden states that point where the teacher's do."""

    api = 1
    paper = "Sanh et al., DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter, 2019"
    year = 2019
    url = "https://arxiv.org/abs/1910.01108"
    equation = (
        "hard_weight · cross-entropy + soft_weight · T^2 · KL(softmax(teacher / T) || softmax(student / T)) + "
        "cosine_weight · mean over tokens (1 - cos(student's, teacher's last hidden state))"
    )
    knowledge = "feature"
    teachers = (1, None)

    @dataclass
    class Config:
        temperature: float = option(2.0, "T, softens both distributions", min=0.01)
        soft_weight: float = option(5.0, "weight of the soft labels; alpha_ce of the authors' code", min=0.0)
        hard_weight: float = option(2.0, "weight of the hard labels; alpha_mlm of the authors' code", min=0.0)
        cosine_weight: float = option(1.0, "weight of the hidden states; alpha_cos of the authors' code", min=0.0)
        depth: float = option(1.0, "relative depth of the hidden states, on both sides; 1 last", min=0.0, max=1.0)
        student_layer: Optional[str] = option(None, "dotted name of the student's layer, instead of the depth")
        teacher_layer: Optional[str] = option(None, "dotted name of the teacher's layer, instead of the depth")

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        return Taps(
            student={"hidden": cfg.student_layer or cfg.depth}, teacher={"hidden": cfg.teacher_layer or cfg.depth}
        )

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        self.project = Projections((setup.student["hidden"], shapes["hidden"]) for shapes in setup.teachers)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        cfg, student = self.cfg, batch.student
        teacher = ensemble_logits([out.logits for out in batch.teachers], temperature=cfg.temperature)
        losses = []
        for out in batch.teachers:
            s_BLD, t_BLD, weight_BL = side_by_side(student.taps["hidden"], out.taps["hidden"], token_weights(batch))
            losses.append(cosine_loss(self.project(s_BLD, t_BLD.shape[2]), t_BLD, weight_BL))
        return {
            "kl": cfg.soft_weight * softened_kl(student.logits, teacher, cfg.temperature),
            "cosine": cfg.cosine_weight * sum(losses[1:], losses[0]),
        }

    def stages(self) -> list[Stage]:
        return [Stage("distill", self.loss, task_weight=self.cfg.hard_weight)]
