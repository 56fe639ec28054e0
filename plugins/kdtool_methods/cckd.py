"""Correlation Congruence for Knowledge Distillation. Peng et al., ICCV 2019. https://arxiv.org/abs/1904.01802

A linear embedding may stand on the student's side only: learned on both sides, it can bring the loss to zero by mapping
everything to one point. The paper samples batches by class: ``data.sampler=class-uniform``.

The Frobenius distance over B^2 is small, a mean of squared differences of numbers below 1. The default weight of 100 is
that of a widely used reimplementation with this very form. (Another, with a weight of 0.02, follows code that the
authors shared: products of neighbouring samples' differences between the two sides, not the paper's equation.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Optional

import torch
from torch import Tensor, nn

from kdtool import Batch, Method, Setup, Stage, Taps, option
from kdtool.layers import unit_rows, width
from kdtool.losses import at_least_fp32, ensemble_logits, softened_kl

KERNELS = ("rbf", "bilinear", "mmd")


def correlation_loss(
    student: Tensor, teacher: Tensor, gamma: float = 0.4, order: int = 2, kernel: str = "rbf"
) -> Tensor:
    """Return the squared Frobenius distance of the two sides' correlation matrices K, over B^2.

    The kernels, on L2-normalised embeddings x:

    - "rbf": Gaussian exp(-gamma |x_i - x_j|^2) as a Taylor series up to ``order`` P:
      K_ij = sum over p = 0..P of exp(-2 gamma) (2 gamma)^p / p! (x_i · x_j)^p.
    - "bilinear": K_ij = x_i · x_j.
    - "mmd": K_ij = |x_i - x_j|^2, the squared distance of mean embeddings, each of one sample.

    Args:
        student: embeddings (B, ...), flattened.
        teacher: embeddings of the same B; any width.
        gamma: width of "rbf", > 0.
        order: P >= 1 of "rbf".
        kernel: "rbf", "bilinear" or "mmd".

    Raises:
        ValueError: an unknown kernel, or the batches differ in size.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel must be one of {', '.join(KERNELS)}, not {kernel!r}")
    if len(student) != len(teacher):
        raise ValueError(f"batches differ: student {len(student)}, teacher {len(teacher)}")
    difference_BB = _kernel(student, gamma, order, kernel) - _kernel(teacher, gamma, order, kernel)
    return difference_BB.square().sum() / len(student) ** 2


def _kernel(embedding: Tensor, gamma: float, order: int, kernel: str) -> Tensor:
    unit_BD = unit_rows(at_least_fp32(embedding))
    with torch.autocast(embedding.device.type, enabled=False):  # it would multiply in half precision
        cosine_BB = unit_BD @ unit_BD.T
    if kernel == "bilinear":
        return cosine_BB
    if kernel == "mmd":
        square_B1 = cosine_BB.diagonal().unsqueeze(1)  # 1, but 0 for a zero embedding
        return square_B1 + square_B1.T - 2 * cosine_BB
    # Horner's scheme, from the highest power down.
    weights = [math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) for p in range(order + 1)]
    total_BB = torch.full_like(cosine_BB, weights[-1])
    for weight in reversed(weights[:-1]):
        total_BB = total_BB * cosine_BB + weight
    return total_BB


class CCKD(Method):
    """Besides the teacher's softened classes, the student keeps the correlations of the batch's embeddings."""

    api = 1
    paper = "Peng et al., Correlation Congruence for Knowledge Distillation, ICCV 2019"
    year = 2019
    url = "https://arxiv.org/abs/1904.01802"
    equation = (
        "(1 - soft_weight) · cross-entropy + soft_weight · T^2 · KL(softmax(teacher / T) || softmax(student / T)) + "
        "weight / B^2 · ||K_student - K_teacher||_F^2, K: kernel matrix of the L2-normalised embeddings"
    )
    knowledge = "relation"
    teachers = (1, None)
    batch = "global"

    @dataclass
    class Config:
        weight: float = option(100.0, "weight of the correlation term", min=0.0)
        kernel: str = option("rbf", "rbf: Gaussian as a Taylor series; bilinear; mmd", choices=KERNELS)
        gamma: float = option(0.4, "width of the rbf kernel", min=1e-6)
        order: int = option(2, "highest power of the rbf kernel's Taylor series", min=1)
        soft_weight: float = option(0.9, "weight of the softened KL; the hard labels get the rest", min=0.0, max=1.0)
        temperature: float = option(4.0, "T of the softened KL", min=0.01)
        embedding: Optional[int] = option(
            None, "width of a learned linear embedding of the student's features, for the correlations; default: none",
            min=1,
        )  # fmt: skip

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        return Taps(student={"embedding": "embedding"}, teacher={"embedding": "embedding"})

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        features = width(setup.student["embedding"])
        self.embed = nn.Linear(features, cfg.embedding) if cfg.embedding else nn.Identity()

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        cfg = self.cfg
        teacher = ensemble_logits([out.logits for out in batch.teachers], temperature=cfg.temperature)
        student = self.embed(batch.student.taps["embedding"])
        losses = [
            correlation_loss(student, out.taps["embedding"], cfg.gamma, cfg.order, cfg.kernel) for out in batch.teachers
        ]
        return {
            "kl": cfg.soft_weight * softened_kl(batch.student.logits, teacher, cfg.temperature),
            "correlation": cfg.weight * sum(losses[1:], losses[0]),
        }

    def stages(self) -> list[Stage]:
        return [Stage("distill", self.loss, task_weight=1 - self.cfg.soft_weight)]
