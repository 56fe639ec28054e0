"""Distillation of an embedding, without labels or a teacher's classifier.

The student's embedding, and its last map or tokens, are brought to a teacher's width by small projectors and compared
by direction and entry by entry. The combination for dense features, 0.9 of the cosine distance and 0.1 of smooth L1, is
that of Ranzinger et al., "AM-RADIO: Agglomerative Vision Foundation Model", CVPR 2024, https://arxiv.org/abs/2312.06709;
there the pooled embedding has the cosine alone. Here both sides are brought to one length first, the root of the width,
so that entries are of the order of 1 whatever the teacher's scale.

Hard labels are learnt besides where there are any; ``hard_weight=0`` learns the embedding alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kdtool import Batch, Method, Setup, Stage, Taps, option
from kdtool.layers import common_size, resize_map, unit_rows, width
from kdtool.losses import at_least_fp32
from kdtool.method import Layer, Shape
from kdtool_methods._maps import require_equal, solid_map, total


def embedding_loss(student: Tensor, teacher: Tensor, cosine: float = 0.9, smooth: float = 0.1) -> Tensor:
    """Return cosine · mean (1 - cos) + smooth · mean smooth L1 of rows that are brought to length √D.

    Args:
        student: (R, D), through the projector.
        teacher: (R, D).
        cosine, smooth: weights.

    Raises:
        ValueError: unequal shapes.
    """
    require_equal(student, teacher)
    student, teacher = unit_rows(at_least_fp32(student)), unit_rows(at_least_fp32(teacher))
    scale = math.sqrt(student.shape[1])
    apart = 1 - (student * teacher).sum(1).mean()
    return cosine * apart + smooth * F.smooth_l1_loss(scale * student, scale * teacher)


def projector(student: int, teacher: int) -> nn.Sequential:
    """Return two linear layers with a layer norm and GELU between them.

    Args:
        student, teacher: widths in and out.
    """
    return nn.Sequential(nn.Linear(student, teacher), nn.LayerNorm(teacher), nn.GELU(), nn.Linear(teacher, teacher))


class Dense(nn.Module):
    """The student's last feature, position by position, beside one teacher's.

    Args:
        student, teacher: shapes of the features, without the batch.
    """

    def __init__(self, student: Shape, teacher: Shape):
        super().__init__()
        self.student, self.teacher, self.size = student, teacher, common_size(student, teacher)
        self.project = projector(width(student), width(teacher))

    def forward(self, student: Tensor, teacher: Tensor, mask_BN: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return (R, D) of both, R the positions of all samples."""
        ours = resize_map(solid_map(student, self.student, mask_BN), self.size)
        theirs = resize_map(solid_map(teacher, self.teacher, mask_BN), self.size)
        rows = (feat.flatten(2).mT.flatten(0, 1) for feat in (ours, theirs))
        first, second = rows
        return self.project(first), second


class Embed(Method):
    """The student's embedding and last feature point where the teacher's do. It needs no labels."""

    api = 1
    paper = "Ranzinger et al., AM-RADIO: Agglomerative Vision Foundation Model (its feature loss), CVPR 2024"
    year = 2024
    url = "https://arxiv.org/abs/2312.06709"
    equation = (
        "hard_weight · cross-entropy + pooled · d(projector(embedding), the teacher's) + dense · d(projector(last), "
        "the teacher's), d = cosine · (1 - cos) + smooth · smooth L1 at length √D"
    )
    knowledge = "feature"
    teachers = (1, None)

    @dataclass
    class Config:
        pooled: float = option(1.0, "weight of the pooled embedding", min=0.0)
        dense: float = option(1.0, "weight of the last map or tokens; 0: they are not read", min=0.0)
        cosine: float = option(0.9, "weight of the cosine distance in both", min=0.0)
        smooth: float = option(0.1, "weight of smooth L1 in both", min=0.0)
        hard_weight: float = option(1.0, "weight of the hard labels; 0: the classifier stays as it was built", min=0.0)

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        roles: dict[str, Layer] = {"embedding": "embedding", **({"last": 1.0} if cfg.dense else {})}
        return Taps(roles, roles)

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        ours = setup.student
        self.pooled = nn.ModuleList(
            projector(width(ours["embedding"]), width(theirs["embedding"])) for theirs in setup.teachers
        )
        pairs = [(ours["last"], theirs["last"]) for theirs in setup.teachers] if cfg.dense else []
        self.dense = nn.ModuleList(Dense(*pair) for pair in pairs)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        cfg, ours = self.cfg, batch.student.taps

        def distance(student: Tensor, teacher: Tensor) -> Tensor:
            return embedding_loss(student, teacher, cfg.cosine, cfg.smooth)

        pooled = [
            distance(project(ours["embedding"]), out.taps["embedding"])
            for project, out in zip(self.pooled, batch.teachers, strict=True)
        ]
        terms = {"pooled": cfg.pooled * total(pooled)}
        if cfg.dense:
            dense = [
                distance(*each(ours["last"], out.taps["last"], batch.student.mask))
                for each, out in zip(self.dense, batch.teachers, strict=True)
            ]
            terms["dense"] = cfg.dense * total(dense)
        return terms

    def stages(self) -> list[Stage]:
        return [Stage("distill", self.loss, task_weight=self.cfg.hard_weight)]
