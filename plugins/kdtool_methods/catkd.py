"""Class Attention Transfer Based Knowledge Distillation. Guo et al., CVPR 2023. https://arxiv.org/abs/2304.12777

A class activation map (CAM) is what the classifier gives at each position of the last map, before pooling. The
student's are to be the teacher's, average-pooled to 2x2, each normalised.

The authors' code normalises for some pairs alone, and has a weight for each pair: on CIFAR-100 .7 to 600, without
normalisation mostly below 20. Here maps are normalised (the paper's Eq. 5), and the weight is the code's for its
normalised pairs of like size, 15. The classifier's bias, which says nothing about where, is in the code's maps, and
here as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kdtool import Batch, Method, Setup, Taps, option
from kdtool.errors import InputError
from kdtool.layers import classifier_of, classify, width
from kdtool.losses import at_least_fp32
from kdtool.method import Own
from kdtool_methods._maps import require_equal, solid_map, total


def class_maps(feat_BCHW: Tensor, classifier: Own) -> Tensor:
    """Return the class activation maps (B, K, H, W) of a feature before pooling (Eq. 1).

    Args:
        feat_BCHW: (B, C, H, W).
        classifier: C to K.
    """
    return classify(classifier, feat_BCHW)


def attention_loss(student_maps: Tensor, teacher_maps: Tensor, size: int = 2, normalize: bool = True) -> Tensor:
    """Return the mean squared difference of class activation maps, pooled and normalised (Eq. 5).

    Args:
        student_maps: (B, K, H, W).
        teacher_maps: (B, K, H', W').
        size: both are average-pooled to size x size.
        normalize: divide each pooled map of each class by its norm; a zero map stays zero.

    Raises:
        ValueError: other samples or classes.
    """
    student_maps, teacher_maps = (
        F.adaptive_avg_pool2d(at_least_fp32(maps), size) for maps in (student_maps, teacher_maps)
    )
    require_equal(student_maps, teacher_maps)
    if normalize:
        student_maps, teacher_maps = (
            F.normalize(maps.flatten(2), dim=2, eps=1e-12) for maps in (student_maps, teacher_maps)
        )
    return (student_maps - teacher_maps).square().mean()


class CATKD(Method):
    """The student looks for each class where the teacher does."""

    api = 1
    paper = "Guo et al., Class Attention Transfer Based Knowledge Distillation, CVPR 2023"
    year = 2023
    url = "https://arxiv.org/abs/2304.12777"
    equation = (
        "cross-entropy + weight · mean (CAM_student / ||CAM_student|| - CAM_teacher / ||CAM_teacher||)^2, CAMs 2x2"
    )
    knowledge = "feature"
    teachers = (1, None)

    @dataclass
    class Config:
        weight: float = option(15.0, "beta, weight of the class maps; the paper's is chosen by pair", min=0.0)
        size: int = option(2, "both sides' maps are pooled to size x size", min=1)
        normalize: bool = option(True, "divide each map by its norm, as in the paper; the code does for some pairs")

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        return Taps(student={"last": 1.0}, teacher={"last": 1.0})

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        self.student = classifier_of(setup.student_parts, "catkd", "student")
        self.theirs = [classifier_of(parts, "catkd", "teacher") for parts in setup.teacher_parts]
        self.shapes = [setup.student["last"], *(shapes["last"] for shapes in setup.teachers)]
        for classifier, shape, whose in zip(
            [self.student, *self.theirs], self.shapes, ["student", *["teacher"] * len(self.theirs)], strict=True
        ):
            if classifier.weight.shape[1] != width(shape):
                raise InputError(
                    f"catkd applies the {whose}'s classifier to its last stage, and cannot: the classifier takes "
                    f"{classifier.weight.shape[1]} channels, and the stage has {width(shape)}, for another layer "
                    f"stands between. Choose another {whose}, or a method that does without a classifier."
                )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        mask_BN = batch.student.mask
        ours = class_maps(solid_map(batch.student.taps["last"], self.shapes[0], mask_BN), self.student)
        losses = []
        for classifier, out, shape in zip(self.theirs, batch.teachers, self.shapes[1:], strict=True):
            theirs = class_maps(solid_map(out.taps["last"], shape, mask_BN), classifier)
            losses.append(attention_loss(ours, theirs, self.cfg.size, self.cfg.normalize))
        return {"attention": self.cfg.weight * total(losses)}
