"""Correlation Congruence for Knowledge Distillation. Peng et al., ICCV 2019. https://arxiv.org/abs/1904.01802

The paper samples batches by class: ``data.sampler=class-uniform``. It says neither weights nor how much the hard labels
count; what is called CC elsewhere differs in all of it:

- the default: the paper's Frobenius distance over B^2 (a mean of squared differences of numbers below 1, hence 100, as
  in a reimplementation with this very form), softened KL 0.9 and hard labels 0.1 as kd has them;
- Tian et al. (ICLR 2020), the tables of CIFAR-100: ``form=neighbours``, code that the authors of CCKD shared, which is
  not the paper's equation: products of neighbouring samples' differences between the two sides, through learned
  embeddings of width 128 on both, weight 0.02, hard labels alone
  (``embedding=128 embed_teacher=true soft_weight=0 weight=0.02``);
- torchdistill, on ImageNet: the paper's kernel on embeddings of 128 learned on both sides and not normalised, over B
  instead of B^2, weight 0.003, softened KL at T=1 and no hard labels (``hard_weight=0``).

An embedding learned on both sides can bring the loss to zero by mapping everything to one point; by default there is
none on the teacher's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import torch
from torch import Tensor, nn

from kdtool import Batch, Method, Setup, Stage, Taps, option
from kdtool.errors import InputError
from kdtool.layers import unit_rows
from kdtool.losses import at_least_fp32, ensemble_logits, gram, softened_kl
from kdtool_methods._related import RelatedLayers, entries, related, related_shapes, related_taps

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
    cosine_BB = gram(unit_rows(at_least_fp32(embedding)))
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


def neighbour_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean over neighbours i, i + 1 of the batch of |s_i - t_i| · |s_{i+1} - t_{i+1}|; 0 for one sample.

    Args:
        student: embeddings (B, D).
        teacher: embeddings of the same shape.

    Raises:
        ValueError: unequal shapes.
    """
    if student.shape != teacher.shape:
        raise ValueError(f"shapes differ: student {tuple(student.shape)}, teacher {tuple(teacher.shape)}")
    apart_BD = (at_least_fp32(student) - at_least_fp32(teacher)).abs()
    return (apart_BD[:-1] * apart_BD[1:]).sum() / max(len(apart_BD) - 1, 1)


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
    class Config(RelatedLayers):
        weight: float = option(100.0, "weight of the correlation term", min=0.0)
        form: str = option(
            "congruence",
            "congruence: of the kernel matrices, the paper's; neighbours: products of neighbouring samples' distances "
            "from the teacher, as in the tables of CIFAR-100",
            choices=("congruence", "neighbours"),
            late=True,
        )
        kernel: str = option("rbf", "rbf: Gaussian as a Taylor series; bilinear; mmd", choices=KERNELS)
        gamma: float = option(0.4, "width of the rbf kernel", min=1e-6)
        order: int = option(2, "highest power of the rbf kernel's Taylor series", min=1)
        soft_weight: float = option(0.9, "weight of the softened KL; the hard labels get the rest", min=0.0, max=1.0)
        hard_weight: Optional[float] = option(
            None, "weight of the hard labels; default: 1 - soft_weight", min=0.0, late=True
        )
        temperature: float = option(4.0, "T of the softened KL", min=0.01)
        embedding: Optional[int] = option(
            None, "width of a learned linear embedding of the student's features, for the correlations; default: none",
            min=1,
        )  # fmt: skip
        embed_teacher: bool = option(
            False, "embed the teacher's features too, as widely, by a layer that is learned", late=True
        )

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        return related_taps("cckd", cfg)

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        if cfg.embed_teacher and not cfg.embedding:
            raise InputError("cckd.embed_teacher=true needs a width: give cckd.embedding, such as cckd.embedding=128.")
        pairs = [(entries(ours), entries(theirs)) for ours, theirs in related_shapes(setup)]
        odd = [
            pair for pair in pairs if (cfg.embedding or pair[0]) != (cfg.embedding if cfg.embed_teacher else pair[1])
        ]
        if cfg.form == "neighbours" and odd:
            raise InputError(
                f"cckd.form=neighbours subtracts embeddings, but student and teacher have {odd[0][0]} and {odd[0][1]} "
                "entries: give cckd.embedding=128 and cckd.embed_teacher=true."
            )
        layers = len(pairs) // len(setup.teachers)
        self.embed = _embeddings([ours for ours, _ in pairs[:layers]], cfg.embedding)
        self.embed_teacher = _embeddings([theirs for _, theirs in pairs], cfg.embedding if cfg.embed_teacher else None)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        cfg = self.cfg
        teacher = ensemble_logits([out.logits for out in batch.teachers], temperature=cfg.temperature)
        pairs = related(batch)
        ours = [embed(student.flatten(1)) for embed, (student, _) in zip(self.embed, pairs, strict=False)]
        losses = [
            self.correlation(ours[number % len(ours)], embed(theirs.flatten(1)))
            for number, (embed, (_, theirs)) in enumerate(zip(self.embed_teacher, pairs, strict=True))
        ]
        return {
            "kl": cfg.soft_weight * softened_kl(batch.student.logits, teacher, cfg.temperature),
            "correlation": cfg.weight * sum(losses[1:], losses[0]),
        }

    def correlation(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the unweighted term of two (B, D) embeddings."""
        if self.cfg.form == "neighbours":
            return neighbour_loss(student, teacher)
        return correlation_loss(student, teacher, self.cfg.gamma, self.cfg.order, self.cfg.kernel)

    def stages(self) -> list[Stage]:
        hard_weight = 1 - self.cfg.soft_weight if self.cfg.hard_weight is None else self.cfg.hard_weight
        return [Stage("distill", self.loss, task_weight=hard_weight)]


def _embeddings(widths: Sequence[int], embedding: int | None) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(each, embedding) if embedding else nn.Identity() for each in widths)
