"""Knowledge Distillation via Softmax Regression Representation Learning. Yang et al., ICLR 2021.
https://openreview.net/forum?id=ZzwDy_wiWv

The student's embedding, through a connector, is to be the teacher's (feature matching), and is to give the teacher's
logits through the teacher's own classifier (softmax regression). The connector goes when the training ends.

The paper's Eq. 5 is a cross-entropy with soft labels; its best variant, and the authors' code, take the squared
difference of the logits, as here (``regression="soft"`` is Eq. 5). Both terms are means over entries, of weight 1. The
code applies the connector to the map before pooling, and compares the pooled maps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kdtool import Batch, Method, Setup, Taps, option
from kdtool.layers import classifier_of, classify, width
from kdtool.losses import at_least_fp32
from kdtool.method import Shape
from kdtool_methods._maps import require_equal, solid_map, total

REGRESSIONS = ("logits", "soft")


def matching_loss(student_feat: Tensor, teacher_feat: Tensor) -> Tensor:
    """Return the mean squared difference of two embeddings (Eq. 2, a mean over entries instead of a sum).

    Args:
        student_feat: (B, D), through the connector.
        teacher_feat: (B, D).

    Raises:
        ValueError: unequal shapes.
    """
    require_equal(student_feat, teacher_feat)
    return (at_least_fp32(student_feat) - at_least_fp32(teacher_feat)).square().mean()


def regression_loss(student_logits: Tensor, teacher_logits: Tensor, regression: str = "logits") -> Tensor:
    """Return how far the student's embedding is from the teacher's for the teacher's classifier.

    Args:
        student_logits: (B, K), what the teacher's classifier makes of the student's embedding.
        teacher_logits: (B, K).
        regression: "logits": mean squared difference, as in the authors' code; "soft": cross-entropy with the
            teacher's softmax, mean over B (Eq. 5).

    Raises:
        ValueError: unequal shapes, or an unknown ``regression``.
    """
    require_equal(student_logits, teacher_logits)
    student_logits, teacher_logits = at_least_fp32(student_logits), at_least_fp32(teacher_logits)
    if regression == "logits":
        return (student_logits - teacher_logits).square().mean()
    if regression == "soft":
        return F.cross_entropy(student_logits, teacher_logits.softmax(1))
    raise ValueError(f"regression must be one of {', '.join(REGRESSIONS)}, not {regression!r}")


class Connector(nn.Module):
    """Brings a student's feature to the teacher's embedding: 1x1 convolution, batch norm, ReLU and pooling.

    Args:
        student: shape of the feature, without the batch.
        teacher: shape of the teacher's embedding.
        rectify: end in a ReLU, as in the authors' code; wrong for a teacher whose embedding takes both signs.
    """

    def __init__(self, student: Shape, teacher: Shape, rectify: bool):
        super().__init__()
        self.student = student
        self.project = nn.Conv2d(width(student), width(teacher), 1, bias=False)
        self.norm = nn.BatchNorm2d(width(teacher))
        self.rectify = rectify
        nn.init.normal_(self.project.weight, std=math.sqrt(2 / width(teacher)))

    def forward(self, feat: Tensor, mask_BN: Tensor | None) -> Tensor:
        """Return (B, D)."""
        out: Tensor = self.norm(self.project(solid_map(feat, self.student, mask_BN)))
        return (out.relu() if self.rectify else out).mean((2, 3))


class SRRL(Method):
    """The student's embedding has to serve the teacher's classifier as the teacher's own does."""

    api = 1
    paper = "Yang et al., Knowledge Distillation via Softmax Regression Representation Learning, ICLR 2021"
    year = 2021
    url = "https://openreview.net/forum?id=ZzwDy_wiWv"
    equation = (
        "cross-entropy + matching · mean (connector(student) - teacher)^2 + regression_weight · "
        "mean (W_teacher connector(student) - teacher's logits)^2"
    )
    knowledge = "feature"
    teachers = (1, None)

    @dataclass
    class Config:
        matching: float = option(1.0, "weight of feature matching", min=0.0)
        regression_weight: float = option(1.0, "weight of softmax regression", min=0.0)
        regression: str = option(
            "logits",
            "squared difference of logits, as in the authors' code, or cross-entropy with the teacher's softmax",
            choices=REGRESSIONS,
        )
        rectify: str = option(
            "auto",
            "whether the connector ends in a ReLU as the authors' does: auto does where the teacher's embedding comes "
            "out of convolutions, and not for token sequences, whose embeddings take both signs",
            choices=("auto", "yes", "no"),
        )

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        return Taps(student={"last": 1.0}, teacher={"last": 1.0, "embedding": "embedding"})

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        self.classifiers = [classifier_of(parts, "srrl", "teacher") for parts in setup.teacher_parts]
        self.connectors = nn.ModuleList(
            Connector(setup.student["last"], shapes["embedding"], self.rectifies(shapes["last"]))
            for shapes in setup.teachers
        )

    def rectifies(self, last: Shape) -> bool:
        """Tell whether the connector to a teacher with this last stage ends in a ReLU."""
        return len(last) == 3 if self.cfg.rectify == "auto" else self.cfg.rectify == "yes"

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        matchings, regressions = [], []
        for connector, classifier, out in zip(self.connectors, self.classifiers, batch.teachers, strict=True):
            embedding_BD = connector(batch.student.taps["last"], batch.student.mask)
            matchings.append(matching_loss(embedding_BD, out.taps["embedding"]))
            logits_BK = classify(classifier, embedding_BD)
            regressions.append(regression_loss(logits_BK, out.logits, self.cfg.regression))
        return {
            "matching": self.cfg.matching * total(matchings),
            "regression": self.cfg.regression_weight * total(regressions),
        }
