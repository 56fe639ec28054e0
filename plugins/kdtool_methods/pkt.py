"""Learning Deep Representations with Probabilistic Knowledge Transfer. Passalis & Tefas, ECCV 2018.
https://arxiv.org/abs/1803.10837

The paper leaves a sample's similarity with itself out and sums over the batch; the authors' code keeps it and takes the
mean over all entries. ``reduction`` chooses. The paper trains on this loss alone; here hard labels join in, so
the weight matters: the default gives the same gradient at any batch size and under either reduction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

import torch
from torch import Tensor

from kdtool import Batch, Method, Setup, Taps, option
from kdtool.layers import unit_rows
from kdtool.losses import at_least_fp32, gram
from kdtool_methods._related import RelatedLayers, related, related_taps

KERNELS = ("cosine", "gaussian")
REDUCTIONS = ("sum", "mean")
WEIGHT, WEIGHT_BATCH = 30_000.0, 64  # common with reduction=mean, and the batch it was chosen at


def probability_loss(
    student: Tensor,
    teacher: Tensor,
    kernel: str = "cosine",
    reduction: str = "sum",
    width: float | None = None,
    eps: float = 1e-7,
) -> Tensor:
    """Return the divergence of the samples' conditional probabilities: sum of p_ij log((p_ij + eps) / (q_ij + eps)).

    p (teacher) and q (student) are similarities, each row divided by its sum.

    Args:
        student: embeddings (B, ...), flattened.
        teacher: embeddings of the same B; any width.
        kernel: "cosine": (cosine + 1) / 2; "gaussian": exp(-|x_i - x_j|^2 / width).
        reduction: "sum": over all pairs i != j, and rows normalised over j != i (the paper); "mean": over all B^2
            entries, the diagonal in (the authors' code).
        width: of "gaussian"; None: the mean of each side's own squared distances, as a constant.
        eps: keeps the logarithm finite.

    Raises:
        ValueError: an unknown kernel or reduction, or the batches differ in size.
    """
    if kernel not in KERNELS or reduction not in REDUCTIONS:
        raise ValueError(f"kernel {kernel!r} and reduction {reduction!r}: valid are {KERNELS} and {REDUCTIONS}")
    if len(student) != len(teacher):
        raise ValueError(f"batches differ: student {len(student)}, teacher {len(teacher)}")
    alone = reduction == "sum"
    q_BB, p_BB = (_probabilities(x, kernel, width, alone) for x in (student, teacher))
    divergence_BB = p_BB * ((p_BB + eps) / (q_BB + eps)).log()
    return divergence_BB.sum() if alone else divergence_BB.mean()


def _probabilities(embedding: Tensor, kernel: str, width: float | None, without_self: bool) -> Tensor:
    embedding_BD = at_least_fp32(embedding).flatten(1)
    similar_BB = _cosine(embedding_BD) if kernel == "cosine" else _gaussian(embedding_BD, width)
    if without_self:
        similar_BB = similar_BB.masked_fill(_diagonal(similar_BB), 0.0)
    total_B1 = similar_BB.sum(1, keepdim=True)
    return similar_BB / torch.where(total_B1 > 0, total_B1, 1.0)  # zero for one sample, or opposite ones only


def _cosine(embedding_BD: Tensor) -> Tensor:
    return (gram(unit_rows(embedding_BD)).clamp(-1, 1) + 1) / 2


def _gaussian(embedding_BD: Tensor, width: float | None) -> Tensor:
    centred_BD = embedding_BD - embedding_BD.mean(0)  # distances do not see the mean; rounding does
    gram_BB = gram(centred_BD)
    norm_B1 = gram_BB.diagonal().unsqueeze(1)
    squared_BB = (norm_B1 + norm_B1.T - 2 * gram_BB).clamp_min(0)
    squared_BB = squared_BB.masked_fill(_diagonal(squared_BB), 0.0)
    if width is not None:
        return (-squared_BB / width).exp()
    mean = squared_BB.detach().mean()
    return (-squared_BB / torch.where(mean > 0, mean, 1.0)).exp()


def _diagonal(matrix_BB: Tensor) -> Tensor:
    return torch.eye(len(matrix_BB), dtype=torch.bool, device=matrix_BB.device)


class PKT(Method):
    """The student's embeddings give the same probabilities of neighbours as the teacher's."""

    api = 1
    paper = "Passalis & Tefas, Learning Deep Representations with Probabilistic Knowledge Transfer, ECCV 2018"
    year = 2018
    url = "https://arxiv.org/abs/1803.10837"
    equation = (
        "cross-entropy + weight · sum over i, j != i of p_ij log(p_ij / q_ij), p and q: similarities of teacher's and "
        "student's embeddings, rows summing to 1"
    )
    knowledge = "relation"
    teachers = (1, None)
    batch = "global"

    @dataclass
    class Config(RelatedLayers):
        weight: Optional[float] = option(
            None,
            "weight of the divergence; default: 469 / batch size for reduction=sum, 469 · batch size for "
            "reduction=mean (the common 30,000 at a batch of 64), so that neither changes the size of the gradient; "
            "a tenth of that for kernel=gaussian, whose divergence is about ten times as large",
            min=0.0,
        )
        kernel: str = option("cosine", "similarity of two embeddings", choices=KERNELS)
        width: Optional[float] = option(
            None, "of the gaussian kernel; default: the mean squared distance in the batch", min=1e-12
        )
        reduction: str = option(
            "sum", "sum: without a sample's similarity with itself, as in the paper; mean: with it, as in the code",
            choices=REDUCTIONS,
        )  # fmt: skip
        eps: float = option(1e-7, "keeps the logarithm finite", min=1e-30, max=0.01)

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        return related_taps("pkt", cfg)

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        self.weight = cfg.weight
        if self.weight is None:
            per_row = WEIGHT / WEIGHT_BATCH * (0.1 if cfg.kernel == "gaussian" else 1)
            self.weight = per_row / setup.batch_size if cfg.reduction == "sum" else per_row * setup.batch_size

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        cfg = self.cfg
        losses = [
            probability_loss(student, teacher, cfg.kernel, cfg.reduction, cfg.width, cfg.eps)
            for student, teacher in related(batch)
        ]
        return {"divergence": self.weight * sum(losses[1:], losses[0])}
