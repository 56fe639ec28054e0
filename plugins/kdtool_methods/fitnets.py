"""FitNets: Hints for Thin Deep Nets. Romero et al., ICLR 2015. https://arxiv.org/abs/1412.6550

The soft term has no factor T^2, in the paper as in the authors' code: its weight falls from 4 to 1 as it is.

Tables of CIFAR-100 (Tian et al., ICLR 2020, and those after it) call another thing FitNet: ``mode=joint`` adds 100
times the mean squared error of the hint to the hard labels in one stage, through a convolution, batch norm and ReLU,
without soft labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from torch import Tensor, nn

from kdtool import Batch, Method, Setup, Stage, Taps, option
from kdtool.layers import Regressor, as_map, packed, token_shares, width
from kdtool.losses import at_least_fp32, ensemble_logits, mean_over, softened_kl
from kdtool.method import Shape

HINT_SHARE = 0.2  # of the student's epochs, where fitnets.hint_epochs is not given


def hint_loss(
    student_feat: Tensor, teacher_feat: Tensor, reduction: str = "mean", share_B: Tensor | None = None
) -> Tensor:
    """Return half the squared error between a regressed student feature and the teacher's hint (Eq. 3).

    Args:
        student_feat: the regressor's output, any shape (B, ...).
        teacher_feat: the hint, the same shape.
        reduction: "sum" over a sample's entries as in Eq. 3, mean over B; "mean" over all entries, which does not grow
            with the map.
        share_B: (B,) weights that stand for 1 / B, where rows do not count alike.

    Raises:
        ValueError: unequal shapes, or an unknown reduction.
    """
    if student_feat.shape != teacher_feat.shape:
        raise ValueError(f"shapes differ: student {tuple(student_feat.shape)}, teacher {tuple(teacher_feat.shape)}")
    squared = (at_least_fp32(student_feat) - at_least_fp32(teacher_feat)).square()
    if reduction == "sum":
        return 0.5 * (
            squared.sum() / len(squared) if share_B is None else squared.flatten(1).sum(1) @ share_B.to(squared.dtype)
        )
    if reduction == "mean":
        return 0.5 * mean_over(squared, share_B)
    raise ValueError(f"reduction must be 'mean' or 'sum', not {reduction!r}")


class RectifiedRegressor(Regressor):
    """A regressor with batch norm and ReLU behind it, for the joint mode.

    Args:
        student, teacher: shapes of the features, without the batch.
    """

    def __init__(self, student: Shape, teacher: Shape):
        super().__init__(student, teacher)
        self.norm = nn.BatchNorm2d(width(teacher))

    def forward(self, feat: Tensor) -> Tensor:
        """Return the feature as (B, *teacher shape), not negative."""
        out = super().forward(feat)
        rectified: Tensor = self.norm(as_map(out)).relu()
        if out.ndim == 3:
            return rectified.squeeze(3).transpose(1, 2)
        return rectified.flatten(1) if out.ndim == 2 else rectified


class FitNets(Method):
    """Two stages: the lower student learns the teacher's middle feature, then the whole student learns by KD."""

    api = 1
    paper = "Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015"
    year = 2015
    url = "https://arxiv.org/abs/1412.6550"
    equation = (
        "stage hint: 1/2 · ||hint layer - regressor(guided layer)||^2, training nothing above the guided layer; "
        "stage distill: cross-entropy + weight · KL(softmax(teacher / T) || softmax(student / T)), "
        "weight falling linearly"
    )
    knowledge = "feature"
    teachers = (1, None)

    @dataclass
    class Config:
        mode: str = option(
            "stages",
            "stages: the paper's two; joint: hard labels and hint in one stage, as in the tables of CIFAR-100",
            choices=("stages", "joint"),
        )
        hint: float = option(0.5, "relative depth of the teacher's hint layer; 0 first stage, 1 last", min=0.0, max=1.0)
        guided: float = option(0.5, "relative depth of the student's guided layer", min=0.0, max=1.0)
        hint_layer: Optional[str] = option(None, "dotted name of the hint layer, instead of its depth")
        guided_layer: Optional[str] = option(None, "dotted name of the guided layer, instead of its depth")
        hint_epochs: Optional[int] = option(
            None, "epochs of stage hint, out of train.epochs; default: 20% of them", min=1
        )
        hint_weight: Optional[float] = option(
            None,
            "weight of the hint's half squared error; for mode=joint of the whole one; default: 1, joint 100",
            min=0.0,
        )
        reduction: str = option(
            "mean", "of the hint loss over a sample's entries; sum: as in Eq. 3", choices=("mean", "sum")
        )
        temperature: float = option(3.0, "T of stage distill", min=0.01)
        soft_weight: float = option(4.0, "weight of the soft term when stage distill starts", min=0.0)
        soft_weight_end: float = option(
            1.0, "weight of the soft term when it ends; equal to soft_weight: constant", min=0.0
        )

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        guided, hint = cfg.guided_layer or cfg.guided, cfg.hint_layer or cfg.hint
        return Taps(student={"guided": guided}, teacher={"hint": hint})

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        self.joint = cfg.mode == "joint"
        regressor = RectifiedRegressor if self.joint else Regressor
        self.regressors = nn.ModuleList(regressor(setup.student["guided"], shapes["hint"]) for shapes in setup.teachers)
        default = 100.0 if self.joint else 1.0
        self.weight: float = default if cfg.hint_weight is None else cfg.hint_weight

    def hint(self, batch: Batch) -> dict[str, Tensor]:
        """Stage 1, or the joint one: the guided layer learns the hint, summed over teachers."""
        mask = batch.student.mask
        guided = packed(batch.student.taps["guided"], mask)
        hints = [teacher.taps["hint"] for teacher in batch.teachers]
        losses = [
            hint_loss(regressor(guided), packed(hint, mask), self.cfg.reduction, share_B)
            for regressor, hint, share_B in zip(self.regressors, hints, token_shares(batch, hints), strict=True)
        ]
        return {"hint": (2 if self.joint else 1) * self.weight * sum(losses[1:], losses[0])}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Stage 2: KD with a falling weight (section 2.2)."""
        temperature = self.cfg.temperature
        weight = self.cfg.soft_weight + (self.cfg.soft_weight_end - self.cfg.soft_weight) * batch.progress
        teacher = ensemble_logits([out.logits for out in batch.teachers], temperature=temperature)
        return {"kl": weight * softened_kl(batch.student.logits, teacher, temperature) / temperature**2}

    def stages(self) -> list[Stage]:
        if self.joint:
            return [Stage("distill", self.hint)]
        hint_epochs = self.cfg.hint_epochs or HINT_SHARE
        return [
            Stage("hint", self.hint, epochs=hint_epochs, task_weight=0.0),
            Stage("distill", self.loss, trains=("student",)),
        ]
