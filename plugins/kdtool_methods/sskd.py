"""Knowledge Distillation Meets Self-Supervision. Xu et al., ECCV 2020. https://arxiv.org/abs/2006.07114

Each image comes upright and turned by a quarter, a half and three quarters. First a small head on the frozen teacher
learns to tell by the embedding of a turned image which of the batch's upright ones it is (60 of the authors' 240 + 60
epochs). Then the student learns the teacher's softened similarities between turned and upright images, and its soft
labels of both. Where the teacher is wrong only the least wrong ones are taught.

Weights, temperatures and shares are those of the authors' code. There the four views pass a network in one batch, here
one after the other, so that batch norms see each by itself. Samples without a label count as ones that the teacher is
right about.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtool import Batch, Method, Out, Setup, Stage, Taps, option
from kdtool.layers import unit_rows, width
from kdtool.losses import at_least_fp32, inner, softened_kl

TURNED = ("rotated90", "rotated180", "rotated270")


def similarities(turned: Tensor, upright: Tensor) -> Tensor:
    """Return the cosine of each turned embedding with each upright one, (V·B, B).

    Args:
        turned: (V·B, D).
        upright: (B, D).
    """
    return inner(unit_rows(at_least_fp32(turned)), unit_rows(at_least_fp32(upright)))


def target_rank(scores: Tensor, target: Tensor) -> Tensor:
    """Return (R,): how many of a row's scores are above the target's; 0 where it is right, or has no target.

    Args:
        scores: (R, K).
        target: (R,) int64 in [0, K), -1 for none.
    """
    known = target >= 0
    own = scores.gather(1, target.clamp_min(0)[:, None])
    return torch.where(known, (scores > own).sum(1), 0)


def taught(rank: Tensor, share: float) -> Tensor:
    """Return (R,) bool: the rows that are right, and the share of the wrong ones with the smallest ranks (Sec. 3.3).

    Args:
        rank: (R,) of ``target_rank``.
        share: of the wrong rows, in [0, 1]; rounded down.
    """
    wrong = (rank > 0).sum()
    count = len(rank) - wrong + (wrong * share).long()
    place = rank.argsort(stable=True).argsort()
    return place < count


def selected_kl(student_scores: Tensor, teacher_scores: Tensor, chosen: Tensor, temperature: float) -> Tensor:
    """Return T^2 · KL(softmax(teacher / T) || softmax(student / T)), mean over the chosen rows; 0 without any.

    Args:
        student_scores: (R, K) logits or similarities.
        teacher_scores: (R, K).
        chosen: (R,) bool.
        temperature: T > 0.
    """
    log_student, log_teacher = (
        F.log_softmax(at_least_fp32(scores) / temperature, dim=1) for scores in (student_scores, teacher_scores)
    )
    kl_R = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(1)
    return temperature**2 * torch.where(chosen, kl_R, 0.0).sum() / chosen.sum().clamp_min(1)


class Head(nn.Sequential):
    """A linear layer, ReLU and another, as wide as the embedding.

    Args:
        size: D.
    """

    def __init__(self, size: int):
        super().__init__(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, size))


class SSKD(Method):
    """The student learns which turned images a self-supervised teacher takes for which upright ones."""

    api = 1
    paper = "Xu et al., Knowledge Distillation Meets Self-Supervision, ECCV 2020"
    year = 2020
    url = "https://arxiv.org/abs/2006.07114"
    equation = (
        "stage head: cross-entropy of the teacher's similarities; stage distill: hard_weight · cross-entropy + soft · "
        "KL(upright) + turned · KL(turned) + similarity · KL(softmax(similarities / T)), each times T^2"
    )
    knowledge = "relation"
    batch = "global"

    @dataclass
    class Config:
        hard_weight: float = option(0.1, "weight of the hard labels", min=0.0)
        soft: float = option(0.9, "weight of the soft labels of upright images", min=0.0)
        turned: float = option(2.7, "weight of the soft labels of turned images", min=0.0)
        similarity: float = option(10.0, "weight of the softened similarities", min=0.0)
        temperature: float = option(4.0, "T of the soft labels", min=0.01)
        similarity_temperature: float = option(0.5, "T of the similarities", min=0.01)
        turned_share: float = option(
            1.0, "share of the turned images that the teacher is wrong about whose soft labels are taught",
            min=0.0, max=1.0,
        )  # fmt: skip
        similarity_share: float = option(
            0.75, "share of the turned images that the teacher takes for another one whose similarities are taught",
            min=0.0, max=1.0,
        )  # fmt: skip
        head_epochs: float = option(
            0.25, "epochs of the teacher's head, as a share of train.epochs; they come on top", min=0.001, max=0.999
        )

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        return Taps(student={"embedding": "embedding"}, teacher={"embedding": "embedding"})

    @classmethod
    def views(cls, cfg: Any) -> tuple[str, ...]:
        return TURNED

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        self.student_head = Head(width(setup.student["embedding"]))
        self.teacher_head = Head(width(setup.teachers[0]["embedding"]))

    def similarities(self, head: nn.Module, out: Out) -> Tensor:
        """Return (V·B, B) of a network's turned and upright embeddings behind its head."""
        turned = torch.cat([out.views[view].taps["embedding"] for view in TURNED])
        return similarities(head(turned), head(out.taps["embedding"]))

    def head(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss of the teacher's head: which upright image is it?"""
        scores = self.similarities(self.teacher_head, batch.teachers[0])
        return {"contrast": F.cross_entropy(scores, _each(torch.arange(scores.shape[1], device=scores.device)))}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        cfg, student, teacher = self.cfg, batch.student, batch.teachers[0]
        theirs = self.similarities(self.teacher_head, teacher).detach()
        ours = self.similarities(self.student_head, student)
        own = _each(torch.arange(ours.shape[1], device=ours.device))
        labels = batch.labels if batch.labels.ndim == 1 else _largest(batch.labels)
        turned, known = (torch.cat([out.views[view].logits for view in TURNED]) for out in (student, teacher))
        sure = taught(target_rank(known, _each(labels)), cfg.turned_share)
        found = taught(target_rank(theirs, own), cfg.similarity_share)
        return {
            "soft": cfg.soft * softened_kl(student.logits, teacher.logits, cfg.temperature),
            "turned": cfg.turned * selected_kl(turned, known, sure, cfg.temperature),
            "similarity": cfg.similarity * selected_kl(ours, theirs, found, cfg.similarity_temperature),
        }

    def stages(self) -> list[Stage]:
        return [
            Stage("head", self.head, epochs=self.cfg.head_epochs, trains=("method",), task_weight=0.0),
            Stage("distill", self.loss, task_weight=self.cfg.hard_weight),
        ]


def _each(row_B: Tensor) -> Tensor:
    """Return (V·B,): the entries once for each turned view."""
    return row_B.repeat(len(TURNED))


def _largest(labels_BK: Tensor) -> Tensor:
    """Return (B,) the class with the largest share of a mixed label, -1 where there is none."""
    return torch.where(labels_BK.sum(1) > 0, labels_BK.argmax(1), -1)
