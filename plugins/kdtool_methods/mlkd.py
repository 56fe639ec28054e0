"""Multi-Level Logit Distillation. Jin et al., CVPR 2023.
https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html

Predictions are aligned at the levels of instances, batch and classes, each summed over the temperatures 2 to 6. The
weight of 0.9 for each level and of 0.1 for hard labels are those of the authors' code.

The paper trains on a weak and a strong view of each image, and sums the losses of both, the hard labels' too. Here the
usual view is the weak one; ``strong=false`` does without the other, at half the cost.

The authors' code also has masks: samples, and classes, of which the teacher is at most as confident as of the median
one. Its losses are reduced before they are masked, so that it scales them by the share of what the mask keeps, about a
half. By default there is no mask; ``masks="code"`` is that, and ``masks="entries"`` what it would be if only the masked
samples and classes counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtool import Batch, Method, Stage, option
from kdtool.errors import InputError
from kdtool.losses import at_least_fp32, ensemble_logits, gram
from kdtool_methods._maps import total

MASKS = ("none", "code", "entries")


def batch_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return the squared difference of the (B, B) Gram matrices of softened probabilities, summed, over B.

    Args:
        student_logits: (B, K).
        teacher_logits: (B, K).
        temperature: T > 0.
    """
    student_BK, teacher_BK = (_softened(each, temperature) for each in (student_logits, teacher_logits))
    return _gram_gap(student_BK, teacher_BK) / len(student_BK)


def class_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return the squared difference of the (K, K) Gram matrices of softened probabilities, summed, over K.

    Arguments are those of ``batch_loss``.
    """
    student_BK, teacher_BK = (_softened(each, temperature) for each in (student_logits, teacher_logits))
    return _gram_gap(student_BK.T, teacher_BK.T) / student_BK.shape[1]


def _softened(logits: Tensor, temperature: float) -> Tensor:
    return F.softmax(at_least_fp32(logits) / temperature, dim=1)


def _gram_gap(student: Tensor, teacher: Tensor) -> Tensor:
    return (gram(student) - gram(teacher)).square().sum()


def confidence_masks(teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return which samples (B,) and which classes (K,) the teacher is at most as confident of as of the median one.

    A sample's confidence is its largest probability at T = 1, a class's the sum of its probabilities over the batch.
    """
    p_BK = _softened(teacher_logits, 1.0)
    sure_B, sure_K = p_BK.amax(1), p_BK.sum(0)
    return sure_B <= sure_B.quantile(0.5), sure_K <= sure_K.quantile(0.5)


def view_parts(
    student_logits: Tensor, teachers: Sequence[Tensor], temperatures: Sequence[float], masks: str = "none"
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the instance, batch and class losses of one view of a batch, each summed over the temperatures.

    Args:
        student_logits: (B, K).
        teachers: one (B, K) tensor a teacher; their softened probabilities are averaged.
        temperatures: each T > 0.
        masks: "none"; "code": parts scaled by the masks' shares; "entries": only masked samples and classes count.

    Raises:
        ValueError: an unknown ``masks``.
    """
    if masks not in MASKS:
        raise ValueError(f"masks must be one of {', '.join(MASKS)}, not {masks!r}")
    parts = [_parts(student_logits, teachers, temperature, masks) for temperature in temperatures]
    instance, batch, classes = (torch.stack(each).sum() for each in zip(*parts, strict=True))
    return instance, batch, classes


def _parts(
    student_logits: Tensor, teachers: Sequence[Tensor], temperature: float, masks: str
) -> tuple[Tensor, Tensor, Tensor]:
    teacher_logits = ensemble_logits(teachers, temperature=temperature)
    log_s_BK, log_t_BK = (
        F.log_softmax(at_least_fp32(each) / temperature, dim=1) for each in (student_logits, teacher_logits)
    )
    kl_B = temperature**2 * F.kl_div(log_s_BK, log_t_BK, reduction="none", log_target=True).sum(1)
    student_BK, teacher_BK = log_s_BK.exp(), log_t_BK.exp()
    size, classes = student_BK.shape
    mask_B, mask_K = kl_B.new_ones(size), kl_B.new_ones(classes)
    if masks != "none":
        mask_B, mask_K = (mask.to(kl_B.dtype) for mask in confidence_masks(ensemble_logits(teachers)))
    if masks == "code":
        share_B, share_K = mask_B.mean(), mask_K.mean()
        mask_B, mask_K = torch.ones_like(mask_B), torch.ones_like(mask_K)
    else:
        share_B = share_K = kl_B.new_ones(())
    rows = _gram_gap(mask_B[:, None] * student_BK, mask_B[:, None] * teacher_BK)
    columns = _gram_gap((student_BK * mask_K).T, (teacher_BK * mask_K).T)
    return share_B * (mask_B * kl_B).mean(), share_B * rows / size, share_K * columns / classes


class MLKD(Method):
    """Predictions aligned at three levels: each sample, samples against samples, classes against classes."""

    api = 1
    paper = "Jin et al., Multi-Level Logit Distillation, CVPR 2023"
    year = 2023
    url = "https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html"
    equation = (
        "hard_weight · cross-entropy + sum over T of instance · T^2 · KL(p_teacher || p_student) + batch / B · "
        "||P P^t - Q Q^t||^2 + classes / K · ||P^t P - Q^t Q||^2, P and Q: softmax(logits / T) of both, (B, K)"
    )
    knowledge = "response"
    teachers = (1, None)
    batch = "global"

    @dataclass
    class Config:
        temperatures: list[float] = option([2.0, 3.0, 4.0, 5.0, 6.0], "each T, over which losses are summed", min=0.01)
        instance: float = option(0.9, "weight of the alignment of each sample", min=0.0)
        batch: float = option(0.9, "weight of the alignment of samples with samples", min=0.0)
        classes: float = option(0.9, "weight of the alignment of classes with classes", min=0.0)
        hard_weight: float = option(0.1, "weight of the hard labels", min=0.0)
        strong: bool = option(True, "sum the losses of the usual and of a strong view (data.strong), as the paper does")
        masks: str = option(
            "none",
            "samples and classes of which the teacher is unsure: not told apart; scaling the losses by their share, as "
            "in the authors' code; or the only ones that count",
            choices=MASKS,
        )

    @classmethod
    def views(cls, cfg: Any) -> tuple[str, ...]:
        return ("strong",) if cfg.strong else ()

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        cfg = self.cfg
        if not cfg.temperatures:
            raise InputError("mlkd.temperatures is empty: give at least one, such as mlkd.temperatures=[4].")
        views = [(batch.student, batch.teachers)]
        if cfg.strong:
            views.append((batch.student.views["strong"], [out.views["strong"] for out in batch.teachers]))
        parts = [
            view_parts(student.logits, [out.logits for out in teachers], cfg.temperatures, cfg.masks)
            for student, teachers in views
        ]
        instance, rows, columns = (total(each) for each in zip(*parts, strict=True))
        terms = {"instance": cfg.instance * instance, "batch": cfg.batch * rows, "classes": cfg.classes * columns}
        if cfg.strong:
            terms["labels"] = cfg.hard_weight * batch.task_loss(views[1][0].logits)
        return terms

    def stages(self) -> list[Stage]:
        return [Stage("distill", self.loss, task_weight=self.cfg.hard_weight)]
