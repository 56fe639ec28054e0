"""Training Shallow and Thin Networks for Acceleration via Knowledge Distillation with Conditional Adversarial Networks.
Xu, Hsu & Huang, ICLR 2018 workshop. https://arxiv.org/abs/1709.00513

The paper updates discriminator and student in turn (``updates=alternating``). By default both learn in the same step:
the student's outputs reach the discriminator through a gradient reversal layer (Ganin & Lempitsky, ICML 2015), so that
what teaches the discriminator to tell the student from the teacher teaches the student to pass for it.

The paper's discriminator sees logits alone and has to name their class too, a task that student and discriminator
share (``condition="classify"``). Here the class is an input by default, as an inner product of its embedding with the
last hidden layer (Miyato & Koyama, ICLR 2018), so that outputs are judged as outputs for that class.

The paper reports that the adversarial loss alone teaches little, and adds an L1 distance of the logits (``l1``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtool import Batch, Method, Setup, Stage, Taps, option
from kdtool.layers import as_vector, width
from kdtool.losses import at_least_fp32


def domain_loss(scores: Tensor, is_teacher: Tensor) -> Tensor:
    """Return the binary cross-entropy of telling teacher from student, mean over the batch.

    Args:
        scores: (B,) logits, any number; > 0 says teacher.
        is_teacher: (B,) bool, or 0 and 1.
    """
    scores = at_least_fp32(scores)
    return F.binary_cross_entropy_with_logits(scores, is_teacher.to(scores.dtype))


def reverse_gradient(x: Tensor, scale: float) -> Tensor:
    """Return ``x`` itself, whose gradient comes back as -scale times what it is."""
    return x.detach() + scale * (x.detach() - x)


class Discriminator(nn.Module):
    """A perceptron of three layers that scores outputs: > 0 says teacher.

    Args:
        width: of the outputs.
        num_classes: K.
        hidden: width of the hidden layers.
        condition: "projection", "classify" or "none".
    """

    def __init__(self, width: int, num_classes: int, hidden: int, condition: str):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(width, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, hidden), nn.LeakyReLU(0.2)
        )
        self.head = nn.Linear(hidden, 1)
        self.of_class = nn.Embedding(num_classes, hidden) if condition == "projection" else None
        if self.of_class is not None:
            nn.init.normal_(self.of_class.weight, std=hidden**-0.5)
        self.classify = nn.Linear(hidden, num_classes) if condition == "classify" else None

    def forward(self, outputs_BD: Tensor, labels_B: Tensor) -> Tensor:
        """Return scores (B,); a sample without a label (-1) is judged without its class."""
        hidden_BH = self.body(outputs_BD)
        scores_B: Tensor = self.head(hidden_BH).squeeze(1)
        if self.of_class is None:
            return scores_B
        fits_B = (self.of_class(labels_B.clamp_min(0)) * hidden_BH).sum(1)
        return scores_B + torch.where(labels_B >= 0, fits_B, 0.0)

    def class_loss(self, outputs_BD: Tensor, labels_B: Tensor) -> Tensor:
        """Return the cross-entropy of the outputs' class as named by the discriminator, mean over labelled samples."""
        assert self.classify is not None
        logits_BK = self.classify(self.body(outputs_BD))
        return F.cross_entropy(logits_BK, labels_B, ignore_index=-1, reduction="sum") / (labels_B >= 0).sum().clamp_min(
            1
        )


class Adversarial(Method):
    """The student learns outputs that a discriminator cannot tell from the teacher's for the same class."""

    api = 1
    paper = (
        "Xu et al., Training Shallow and Thin Networks for Acceleration via Knowledge Distillation with Conditional "
        "Adversarial Networks, ICLR workshop 2018"
    )
    year = 2018
    url = "https://arxiv.org/abs/1709.00513"
    equation = (
        "cross-entropy + l1 · mean |student - teacher| - weight · E_D, E_D the discriminator's mean cross-entropy: "
        "-1/2 · E[log D(teacher | class)] - 1/2 · E[log(1 - D(student | class))], which D itself minimises"
    )
    knowledge = "response"
    teachers = (1, None)
    hard_labels = True

    @dataclass
    class Config:
        weight: float = option(
            1.0, "how strongly the student works against the discriminator: scale of its reversed gradient", min=0.0
        )
        l1: float = option(1.0, "weight of the mean absolute difference of the logits; 0: none", min=0.0)
        of: str = option(
            "logits",
            "what the discriminator sees; embedding: the one before the classifier, the student's mapped to the "
            "teacher's width by a linear layer",
            choices=("logits", "embedding"),
        )
        condition: str = option(
            "projection",
            "how the class enters. projection: as an input; classify: as the paper has it, the discriminator names "
            "the class of what it sees; none: not at all",
            choices=("projection", "classify", "none"),
        )
        hidden: int = option(128, "width of the discriminator's two hidden layers", min=1)
        updates: str = option(
            "together",
            "together: one step of student and discriminator; alternating: the discriminator, then the student, as in "
            "the paper",
            choices=("together", "alternating"),
            late=True,
        )

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        role = {"embedding": "embedding"} if cfg.of == "embedding" else {}
        return Taps(student=role, teacher=role)

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        self.of_embedding = cfg.of == "embedding"
        logits = (setup.num_classes,)
        shapes = [teacher["embedding"] if self.of_embedding else logits for teacher in setup.teachers]
        self.discriminators = nn.ModuleList(
            Discriminator(width(shape), setup.num_classes, cfg.hidden, cfg.condition) for shape in shapes
        )
        self.adapters = nn.ModuleList(
            nn.Linear(width(setup.student["embedding"]), width(shape)) if self.of_embedding else nn.Identity()
            for shape in shapes
        )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The discriminators' term is not weighted, and reaches the student reversed, times ``weight``."""
        terms: dict[str, list[Tensor]] = {"domain": []}
        labels_2B = torch.cat([batch.labels, batch.labels])
        is_teacher_2B = torch.arange(len(labels_2B), device=labels_2B.device) >= len(batch.labels)
        for discriminator, adapter, teacher in zip(self.discriminators, self.adapters, batch.teachers, strict=True):
            assert isinstance(discriminator, Discriminator)
            ours, theirs = adapter(self._seen(batch.student)), self._seen(teacher)
            scores_2B = discriminator(torch.cat([reverse_gradient(ours, self.cfg.weight), theirs]), labels_2B)
            terms["domain"].append(domain_loss(scores_2B, is_teacher_2B))
            if discriminator.classify is not None:
                named = discriminator.class_loss(torch.cat([ours, theirs]), labels_2B)
                terms.setdefault("class", []).append(self.cfg.weight * named)
            if self.cfg.l1:
                apart = (batch.student.logits - teacher.logits).abs().mean()
                terms.setdefault("l1", []).append(self.cfg.l1 * apart)
        return {name: sum(losses[1:], losses[0]) for name, losses in terms.items()}

    def judge(self, batch: Batch) -> dict[str, Tensor]:
        """The discriminators' turn: they learn to tell the student's outputs, as constants, from the teacher's."""
        terms: dict[str, list[Tensor]] = {"domain": []}
        labels_2B = torch.cat([batch.labels, batch.labels])
        is_teacher_2B = torch.arange(len(labels_2B), device=labels_2B.device) >= len(batch.labels)
        for discriminator, adapter, teacher in zip(self.discriminators, self.adapters, batch.teachers, strict=True):
            assert isinstance(discriminator, Discriminator)
            seen_2B = torch.cat([adapter(self._seen(batch.student)).detach(), self._seen(teacher)])
            terms["domain"].append(domain_loss(discriminator(seen_2B, labels_2B), is_teacher_2B))
            if discriminator.classify is not None:
                named = discriminator.class_loss(seen_2B, labels_2B)
                terms.setdefault("class", []).append(self.cfg.weight * named)
        return {name: sum(losses[1:], losses[0]) for name, losses in terms.items()}

    def deceive(self, batch: Batch) -> dict[str, Tensor]:
        """The student's turn: what ``loss`` asks of it, of discriminators that stay as they are."""
        terms: dict[str, list[Tensor]] = {"deceive": []}
        labels_B = batch.labels
        for discriminator, adapter, teacher in zip(self.discriminators, self.adapters, batch.teachers, strict=True):
            assert isinstance(discriminator, Discriminator)
            ours = adapter(self._seen(batch.student))
            with _still(discriminator):
                # Of the mean over both sides, the student's half.
                told = domain_loss(discriminator(ours, labels_B), torch.zeros_like(labels_B)) / 2
                terms["deceive"].append(-self.cfg.weight * told)
                if discriminator.classify is not None:
                    both_2B, labels_2B = torch.cat([ours, self._seen(teacher)]), torch.cat([labels_B, labels_B])
                    named = discriminator.class_loss(both_2B, labels_2B)
                    terms.setdefault("named", []).append(self.cfg.weight * named)
            if self.cfg.l1:
                apart = (batch.student.logits - teacher.logits).abs().mean()
                terms.setdefault("l1", []).append(self.cfg.l1 * apart)
        return {name: sum(losses[1:], losses[0]) for name, losses in terms.items()}

    def stages(self) -> list[Stage]:
        turns = (self.judge, self.deceive) if self.cfg.updates == "alternating" else ()
        return [Stage("distill", self.loss, turns=turns)]

    def _seen(self, out: Any) -> Tensor:
        seen: Tensor = as_vector(out.taps["embedding"]) if self.of_embedding else out.logits
        return seen


@contextmanager
def _still(module: nn.Module) -> Iterator[None]:
    """Let what is computed through a module give its parameters no gradient."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
