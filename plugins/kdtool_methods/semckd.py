"""Cross-Layer Distillation with Semantic Calibration. Chen et al., AAAI 2021. https://arxiv.org/abs/2012.03236

Every layer of the student learns from all layers of the teacher; how much from which, is attention between embedded
rows of the layers' batch similarities. So the embeddings' width is the batch's size: a smaller last batch counts as
one with samples that are similar to none.

The paper adds the soft labels of KD with weight 1 (``soft_weight``), and weighs the calibrated term by 400.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtool import Batch, Method, Setup, Taps, option
from kdtool.errors import InputError
from kdtool.layers import common_size, resize_map, unit_rows, width
from kdtool.losses import at_least_fp32, ensemble_logits, gram, softened_kl
from kdtool.method import Shape
from kdtool_methods._maps import require_equal, solid_maps, total

SMALLEST_EMBEDDING = 16  # a quarter of the authors' batch of 64; of unit length, few dimensions say next to nothing


def calibrated_loss(
    student_values: Sequence[Sequence[Tensor]], teacher_values: Sequence[Sequence[Tensor]], attention_BST: Tensor
) -> Tensor:
    """Return the mean over samples and student layers of the attention-weighted mean squared errors (Eq. 9).

    Args:
        student_values: S lists of T features (B, ...): student layer s, brought to the shape of teacher layer t.
        teacher_values: S lists of T features: teacher layer t, in the shape of its partner.
        attention_BST: (B, S, T), rows sum to 1.

    Raises:
        ValueError: unequal shapes, or other numbers of features than the attention has.
    """
    _, students, teachers = attention_BST.shape
    for side in (student_values, teacher_values):
        if [len(row) for row in side] != [teachers] * students:
            raise ValueError(f"attention {tuple(attention_BST.shape)} needs {students} lists of {teachers} features")
    errors = []
    for ours, theirs in zip(student_values, teacher_values, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            require_equal(a, b)
            errors.append((at_least_fp32(a) - at_least_fp32(b)).square().flatten(1).mean(1))
    errors_BST = torch.stack(errors, 1).view(-1, students, teachers)
    return (at_least_fp32(attention_BST) * errors_BST).sum() / (len(errors_BST) * students)


def similarity(feat: Tensor) -> Tensor:
    """Return (B, B): inner products of the samples' flattened features, over the largest of all, in [-1, 1].

    The authors' code takes the bare products, which grow with the map; what follows normalises their embeddings, but
    not the products before its ReLU. A common factor keeps them in range and their proportions.

    Args:
        feat: (B, ...).
    """
    flat_BN = at_least_fp32(feat).flatten(1)
    largest = torch.linalg.vector_norm(flat_BN.detach(), dim=1).amax()
    return gram(flat_BN / torch.where(largest > 0, largest, 1.0))


class Embed(nn.Module):
    """Embeds rows of a batch similarity in unit length: two linear layers.

    Args:
        batch_size: width of a row.
    """

    def __init__(self, batch_size: int):
        super().__init__()
        out = max(SMALLEST_EMBEDDING, batch_size // 4)
        self.batch_size = batch_size
        self.embed = nn.Sequential(nn.Linear(batch_size, 2 * out), nn.ReLU(), nn.Linear(2 * out, out))

    def forward(self, similarity_BB: Tensor) -> Tensor:
        """Return (B, D); of a larger batch only the first columns count, those of a smaller one are filled with 0."""
        row_BN = F.pad(similarity_BB, (0, max(0, self.batch_size - similarity_BB.shape[1])))[:, : self.batch_size]
        return unit_rows(at_least_fp32(self.embed(row_BN)))


class Value(nn.Module):
    """Brings a student's map to a teacher's channels, non-linearly, at the smaller of both sizes.

    Args:
        student, teacher: shapes of the features, without the batch.
    """

    def __init__(self, student: Shape, teacher: Shape):
        super().__init__()
        channels = width(teacher)
        self.size = common_size(student, teacher)
        self.project = nn.Sequential(
            nn.Conv2d(width(student), 2 * channels, 1, bias=False),
            nn.BatchNorm2d(2 * channels),
            nn.ReLU(),
            nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(2 * channels),
            nn.ReLU(),
            nn.Conv2d(2 * channels, channels, 1, bias=False),
        )

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Return both maps as (B, C, H, W) of the teacher's channels."""
        return self.project(resize_map(student, self.size)), resize_map(teacher, self.size)


class Calibration(nn.Module):
    """One teacher: queries of the student's layers, keys of the teacher's, and values of all pairs.

    Args:
        student, teacher: shapes of the layers.
        batch_size: samples in a batch.
    """

    def __init__(self, student: Sequence[Shape], teacher: Sequence[Shape], batch_size: int):
        super().__init__()
        self.queries = nn.ModuleList(Embed(batch_size) for _ in student)
        self.keys = nn.ModuleList(Embed(batch_size) for _ in teacher)
        self.values = nn.ModuleList(nn.ModuleList(Value(ours, theirs) for theirs in teacher) for ours in student)

    def attention(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Return (B, S, T), rows of sum 1 (Eq. 7)."""
        query_BSD, key_BTD = (
            torch.stack([embed(similarity(feat)) for embed, feat in zip(embeds, feats, strict=True)], 1)
            for embeds, feats in ((self.queries, student), (self.keys, teacher))
        )
        with torch.autocast(query_BSD.device.type, enabled=False):
            return (query_BSD @ key_BTD.mT).softmax(2)

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Return the calibrated loss of all pairs of layers."""
        pairs = [
            [value(ours, theirs) for value, theirs in zip(row, teacher, strict=True)]  # type: ignore[call-overload]
            for row, ours in zip(self.values, student, strict=True)
        ]
        ours_of, theirs_of = ([[pair[side] for pair in row] for row in pairs] for side in (0, 1))
        return calibrated_loss(ours_of, theirs_of, self.attention(student, teacher))


class SemCKD(Method):
    """Every layer of the student learns from all of the teacher's, by attention that is learned as well."""

    api = 1
    paper = "Chen et al., Cross-Layer Distillation with Semantic Calibration, AAAI 2021"
    year = 2021
    url = "https://arxiv.org/abs/2012.03236"
    equation = (
        "cross-entropy + soft_weight · T^2 · KL + weight · mean over student layers of sum over teacher layers "
        "attention(similarities) · mean (value(student) - teacher)^2"
    )
    knowledge = "feature"
    teachers = (1, None)
    batch = "global"

    @dataclass
    class Config:
        weight: float = option(400.0, "weight of the calibrated term; the authors' on CIFAR-100", min=0.0)
        soft_weight: float = option(1.0, "weight of T^2 · KL; the paper's is 1; 0: none", min=0.0)
        temperature: float = option(4.0, "T of the soft labels", min=0.01)
        layers: list[float] = option(
            [0.33, 0.67, 1.0], "relative depths of the layers, on both sides; 0 first stage, 1 last", min=0.0, max=1.0
        )
        student_layers: Optional[list[str]] = option(
            None, "dotted names of the student's layers, instead of depths; as many as you like"
        )
        teacher_layers: Optional[list[str]] = option(None, "dotted names of the teacher's layers, instead of depths")

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        student, teacher = (list(named or cfg.layers) for named in (cfg.student_layers, cfg.teacher_layers))
        if not student or not teacher:
            raise InputError("semckd needs at least one layer on each side (semckd.layers).")
        return Taps(student={"stages": student}, teacher={"stages": teacher})

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        self.student: list[Shape] = setup.student["stages"]
        self.of_teachers: list[list[Shape]] = [shapes["stages"] for shapes in setup.teachers]
        self.calibrations = nn.ModuleList(
            Calibration(self.student, shapes, setup.batch_size) for shapes in self.of_teachers
        )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        mask_BN, losses = batch.student.mask, []
        ours = solid_maps(batch.student.taps["stages"], self.student, mask_BN)
        for calibration, out, shapes in zip(self.calibrations, batch.teachers, self.of_teachers, strict=True):
            losses.append(calibration(ours, solid_maps(out.taps["stages"], shapes, mask_BN)))
        temperature = self.cfg.temperature
        teacher = ensemble_logits([out.logits for out in batch.teachers], temperature=temperature)
        soft = softened_kl(batch.student.logits, teacher, temperature)
        return {"calibrated": self.cfg.weight * total(losses), "kl": self.cfg.soft_weight * soft}
