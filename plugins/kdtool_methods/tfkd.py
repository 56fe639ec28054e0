"""Revisiting Knowledge Distillation via Label Smoothing Regularization. Yuan et al., CVPR 2020.
https://arxiv.org/abs/1909.11723

This is Tf-KD_reg, whose teacher is a table: 100% right, and indifferent between the wrong classes. The paper's other
form, Tf-KD_self, is ``kd`` with a teacher of the student's own architecture, and needs no method of its own.

The paper softens both the table and the student by T; the factor T^2, which the authors' code has in its other forms,
keeps the term's gradient from vanishing at T = 20. The authors' code of this form differs: it takes softmax(table / T)
of the table's probabilities rather than of their logarithms, which at T = 20 is nearly uniform, and compares with the
student at T = 1: label smoothing, mostly. ``form="code"`` is that. T = 20 and alpha = 0.1 are those of ResNet-18 on
CIFAR-100; others there have T = 40, and alpha = 0.95 for small networks. (In the code the sum over classes is a mean,
multiplied by 100 for ResNet-18: their number.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtool import Batch, Method, Stage, option
from kdtool.losses import at_least_fp32


def virtual_teacher_loss(
    logits: Tensor, labels: Tensor, correct: float, temperature: float, form: str = "paper"
) -> Tensor:
    """Return the divergence of the student from the virtual teacher, mean over the labelled samples; zero without any.

    Args:
        logits: (B, K), the student's, K >= 2.
        labels: (B,) integer class, -1 for samples without a label; or (B, K) of mixed samples, rows of zeros: none.
        correct: the teacher's probability of the right class, in (0, 1); the others share the rest.
        temperature: T > 0.
        form: "paper": T^2 · KL(table softened by T || softmax(student / T)); "code": KL(softmax(table / T) ||
            softmax(student)).

    Raises:
        ValueError: fewer than two classes, or an unknown form.
    """
    logits, classes = at_least_fp32(logits), logits.shape[1]
    if classes < 2:
        raise ValueError("the virtual teacher needs at least two classes")
    if form not in ("paper", "code"):
        raise ValueError(f"form must be 'paper' or 'code', not {form!r}")
    labelled_B, right_BK = _right(labels, classes, logits.dtype)
    wrong = (1 - correct) / (classes - 1)
    if form == "paper":
        # Where samples are mixed, so are the logarithms: the table of a single class is untouched by that.
        table_BK = math.log(wrong) + (math.log(correct) - math.log(wrong)) * right_BK
        log_s_BK, scale = F.log_softmax(logits / temperature, dim=1), temperature**2
    else:
        table_BK = wrong + (correct - wrong) * right_BK
        log_s_BK, scale = F.log_softmax(logits, dim=1), 1.0
    log_t_BK = F.log_softmax(table_BK / temperature, dim=1)
    kl_B = F.kl_div(log_s_BK, log_t_BK, reduction="none", log_target=True).sum(1)
    return scale * torch.where(labelled_B, kl_B, 0.0).sum() / labelled_B.sum().clamp_min(1)


def _right(labels: Tensor, classes: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return which samples have a label (B,), and the share of each class (B, K)."""
    if labels.ndim == 2:
        return labels.sum(1) > 0, labels.to(dtype)
    return labels >= 0, F.one_hot(labels.clamp_min(0), classes).to(dtype)


class TfKD(Method):
    """A virtual teacher: always right, and indifferent between the wrong classes."""

    api = 1
    paper = "Yuan et al., Revisiting Knowledge Distillation via Label Smoothing Regularization, CVPR 2020"
    year = 2020
    url = "https://arxiv.org/abs/1909.11723"
    equation = (
        "(1 - alpha) · cross-entropy + alpha · T^2 · KL(table softened by T || softmax(student / T)), "
        "table: `correct` for the right class, the rest shared by the others"
    )
    knowledge = "response"
    teachers = (0, 0)

    @dataclass
    class Config:
        temperature: float = option(20.0, "T; the paper: 20 or 40, by network", min=0.01)
        alpha: float = option(
            0.1, "weight of the virtual teacher; hard labels get 1 - alpha; the paper: 0.95 for small networks",
            min=0.0, max=1.0,
        )  # fmt: skip
        correct: float = option(0.99, "the virtual teacher's probability of the right class", min=0.01, max=0.9999)
        form: str = option(
            "paper", "what T softens: table and student, or, in the authors' code, the table's probabilities as logits",
            choices=("paper", "code"),
        )  # fmt: skip

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        cfg = self.cfg
        kl = virtual_teacher_loss(batch.student.logits, batch.labels, cfg.correct, cfg.temperature, cfg.form)
        return {"kl": cfg.alpha * kl}

    def stages(self) -> list[Stage]:
        return [Stage("distill", self.loss, task_weight=1 - self.cfg.alpha)]
