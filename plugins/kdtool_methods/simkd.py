"""Knowledge Distillation with the Reused Teacher Classifier. Chen et al., CVPR 2022. https://arxiv.org/abs/2203.14001

The student's last map, through a projector, is to be the teacher's, by the one squared difference and no labels. What
ships is the student's body, the projector and the teacher's own classifier: the student's classifier is never trained.

As in the authors' code the loss is a mean over the entries of the maps before pooling, the larger one pooled to the
smaller one's size. Where more than an average stands between the last map and the classifier (vision transformers,
text, networks with a wide layer after the pooling), embeddings take the place of maps, and linear layers that of
convolutions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from kdtool import Batch, Method, Setup, Stage, Taps, option
from kdtool.layers import classifier_of, copied, resize_map, width
from kdtool.losses import at_least_fp32
from kdtool.method import Layer, Shape
from kdtool_methods._maps import require_equal


def feature_loss(student_feat: Tensor, teacher_feat: Tensor) -> Tensor:
    """Return the mean squared difference of two features (Eq. 2).

    Args:
        student_feat: (B, C, H, W) or (B, D), through the projector.
        teacher_feat: the same shape.

    Raises:
        ValueError: unequal shapes.
    """
    require_equal(student_feat, teacher_feat)
    return (at_least_fp32(student_feat) - at_least_fp32(teacher_feat)).square().mean()


def projector(student: int, teacher: int, factor: int, maps: bool, rectify: bool) -> nn.Sequential:
    """Return three convolutions (1x1, 3x3, 1x1), or linear layers, each with batch norm and ReLU.

    Args:
        student, teacher: channels in and out.
        factor: between them there are ``teacher / factor`` channels.
        maps: for maps; else for vectors.
        rectify: the last layer has a ReLU, too.
    """
    inner = max(1, teacher // factor)
    layers: list[nn.Module] = []
    for ours, theirs, size in ((student, inner, 1), (inner, inner, 3), (inner, teacher, 1)):
        if maps:
            layers += [nn.Conv2d(ours, theirs, size, padding=size // 2, bias=False), nn.BatchNorm2d(theirs)]
        else:
            layers += [nn.Linear(ours, theirs, bias=False), nn.BatchNorm1d(theirs)]
        layers.append(nn.ReLU())
    return nn.Sequential(*layers if rectify else layers[:-1])


class SimKD(Method):
    """The student's features take the teacher's place before the teacher's own classifier, which ships."""

    api = 1
    paper = "Chen et al., Knowledge Distillation with the Reused Teacher Classifier, CVPR 2022"
    year = 2022
    url = "https://arxiv.org/abs/2203.14001"
    equation = (
        "weight · mean (projector(student) - teacher)^2; what ships: W_teacher pool(projector(student)) + b_teacher"
    )
    knowledge = "feature"

    @dataclass
    class Config:
        weight: float = option(1.0, "weight of the one term", min=0.0)
        factor: int = option(2, "the projector is narrower than the teacher by this factor", min=1)
        rectify: str = option(
            "auto",
            "whether the projector ends in a ReLU as the authors' does: auto does where the teacher's last stage is a "
            "map, and not for token sequences, whose embeddings take both signs",
            choices=("auto", "yes", "no"),
        )

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        roles: dict[str, Layer] = {"last": 1.0, "embedding": "embedding"}
        return Taps(roles, roles)

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        self.ours = classifier_of(setup.student_parts, "simkd", "student")
        (theirs,) = setup.teacher_parts
        self.theirs = classifier_of(theirs, "simkd", "teacher")
        self.place: str = setup.student_parts.pooled["last"]
        self.maps = bool(self.place and theirs.pooled["last"])
        role = "last" if self.maps else "embedding"
        student, teacher = setup.student[role], setup.teachers[0][role]
        last: Shape = setup.teachers[0]["last"]
        rectify = len(last) == 3 if cfg.rectify == "auto" else cfg.rectify == "yes"
        as_maps = self.maps or isinstance(self.ours.layer, nn.Conv2d)
        self.projector = projector(width(student), width(teacher), cfg.factor, as_maps, rectify)
        self.size = (min(student[1], teacher[1]), min(student[2], teacher[2])) if self.maps else (1, 1)
        self.shrinks = self.maps and self.size != tuple(student[1:])

    def remarks(self) -> list[str]:
        if self.maps:
            return []
        return [
            "simkd: more than an average over positions stands between the last map and a classifier, so embeddings "
            "are compared, not maps."
        ]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        ours, theirs = batch.student.taps, batch.teachers[0].taps
        if self.maps:
            projected = self.projector(resize_map(ours["last"], self.size))
            found = feature_loss(projected, resize_map(theirs["last"], self.size))
        else:
            feat = ours["embedding"]
            feat = feat[:, :, None, None] if isinstance(self.projector[0], nn.Conv2d) else feat
            found = feature_loss(self.projector(feat).flatten(1), theirs["embedding"])
        return {"feature": self.cfg.weight * found}

    def stages(self) -> list[Stage]:
        return [Stage("distill", self.loss, task_weight=0.0)]

    def ships(self, student: nn.Module) -> nn.Module:
        """Return the student with the projector behind its last map and the teacher's classifier for its own."""
        ours = student.get_submodule(self.ours.name)
        theirs = copied(self.theirs, ours)
        if not self.maps:
            _put(student, self.ours.name, nn.Sequential(*self.projector, theirs))
            return student
        pool = [nn.AdaptiveAvgPool2d(self.size)] if self.shrinks else []
        _put(student, self.place, nn.Sequential(student.get_submodule(self.place), *pool, *self.projector))
        _put(student, self.ours.name, theirs)
        return student


def _put(network: nn.Module, name: str, layer: nn.Module) -> None:
    above, _, last = name.rpartition(".")
    setattr(network.get_submodule(above), last, layer)
