"""Contrastive Representation Distillation. Tian, Krishnan & Isola, ICLR 2020. https://arxiv.org/abs/1910.10699

As in the authors' code, a sample's positive is its own entry in the other network's memory bank, negatives are samples
of other classes (``negatives_from="samples"`` needs no labels), a small constant stands in the denominators, and the
normalising constants are estimated once, from the first batch. The code draws a sample's negatives without
repetition; here they are independent draws, as noise-contrastive estimation assumes, and a function of the epoch and
the sample, so that they do not depend on who computes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtool import Batch, Method, Setup, Taps, option
from kdtool.errors import InputError
from kdtool.layers import as_vector, width
from kdtool.losses import at_least_fp32
from kdtool.randomness import hashed, key_of
from kdtool_methods._related import RelatedLayers, related, related_shapes, related_taps

EPS = 1e-7  # the authors'; it reads as a little more noise
PAPER_NEGATIVES = 16384
SCORES_AT_ONCE = 2**25  # 128 MiB of fp32
_SAMPLE, _EPOCH, _DRAW, _POSITIVE = (key_of("crd", what) for what in ("sample", "epoch", "draw", "positive"))


def contrast_loss(positive: Tensor, negatives: Tensor, num_samples: int) -> Tensor:
    """Return the noise-contrastive loss of N negatives a sample, drawn uniformly from ``num_samples``.

    With c = N / num_samples, the noise's share, it is the mean over the batch of
    -log(P / (P + c + eps)) - sum over the sample's negatives q of log(c / (q + c + eps)), eps = 1e-7.

    Args:
        positive: (B,) or (B, 1), > 0: exp(similarity / temperature) / Z of the true pairs.
        negatives: (B, N), >= 0: the same of the false pairs.
        num_samples: size of the set that negatives are drawn from; the training set.
    """
    positive_B, negatives_BN = at_least_fp32(positive).flatten(), at_least_fp32(negatives)
    noise = negatives_BN.shape[1] / num_samples
    losses_B = (positive_B + (noise + EPS)).log() - positive_B.log()
    # Most of the many negatives lie far below the noise, where log(q + c) - log(c) would lose them in rounding.
    return losses_B.mean() + torch.log1p((negatives_BN + EPS) / noise).sum() / len(positive_B)


class _BankScores(torch.autograd.Function):
    """Inner products of (B, D) anchors with the bank's rows at (B, M) indices.

    One matrix product gives an anchor's products with the whole bank, of which M are picked: it never holds
    (B, M, D) gathered rows, nor, a few anchors at a time, all (B, num_samples) products.
    """

    @staticmethod
    def forward(ctx: Any, anchor_BD: Tensor, bank_ND: Tensor, index_BM: Tensor) -> Tensor:
        ctx.save_for_backward(bank_ND, index_BM)
        pairs = zip(*_in_chunks(len(bank_ND), anchor_BD, index_BM), strict=True)
        return torch.cat([(anchor @ bank_ND.T).gather(1, index) for anchor, index in pairs])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        bank_ND, index_BM = ctx.saved_tensors
        pairs = zip(*_in_chunks(len(bank_ND), gradients[0], index_BM), strict=True)
        return torch.cat([_scattered(gradient, index, len(bank_ND)) @ bank_ND for gradient, index in pairs]), None, None


def _in_chunks(bank_size: int, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
    rows = max(1, SCORES_AT_ONCE // bank_size)
    return [tensor.split(rows) for tensor in tensors]


def _scattered(value_BM: Tensor, index_BM: Tensor, size: int) -> Tensor:
    return value_BM.new_zeros(len(value_BM), size).scatter_add_(1, index_BM, value_BM)


def bank_scores(anchor_BD: Tensor, bank_ND: Tensor, index_BM: Tensor) -> Tensor:
    """Return (B, M) inner products of each anchor with the bank's rows at its indices; the bank gets no gradient."""
    with torch.autocast(anchor_BD.device.type, enabled=False):  # it would multiply in half precision
        scores: Tensor = _BankScores.apply(at_least_fp32(anchor_BD), bank_ND, index_BM)
    return scores


class Negatives(nn.Module):
    """Draws each sample's negatives as a function of the epoch and the sample.

    Args:
        num_samples: size of the training set, at least 2.
        labels: (num_samples,) class of each, -1 for none: negatives are not of the sample's class, as far as is
            known; None: they are any other samples.
    """

    order: Tensor
    gap_start: Tensor
    gap: Tensor

    def __init__(self, num_samples: int, labels: Tensor | None):
        super().__init__()
        # Samples in an order in which those that are no negatives of a sample form one gap.
        rank = torch.arange(num_samples)
        order, gap_start, gap = rank, rank, torch.ones_like(rank)
        if labels is not None:
            values, order = labels.sort(stable=True)
            first, last = torch.searchsorted(values, labels), torch.searchsorted(values, labels, right=True)
            # Alone in the gap: a sample without a label, and every sample where all are of one class.
            alone = (labels < 0) | (last - first == num_samples)
            gap_start = torch.where(alone, order.argsort(), first)
            gap = torch.where(alone, 1, last - first)
        for name, table in (("order", order), ("gap_start", gap_start), ("gap", gap)):
            self.register_buffer(name, table, persistent=False)  # follows from the data

    def forward(self, index_B: Tensor, epoch: int, count: int) -> Tensor:
        """Return (B, count) positions in the training set, drawn with repetition."""
        anchor_B = hashed(_EPOCH, hashed(_SAMPLE, index_B) + epoch)
        draw_BN = hashed(_DRAW, anchor_B[:, None] + torch.arange(count, device=index_B.device))
        gap_B1 = self.gap[index_B][:, None]
        place_BN = draw_BN.remainder(len(self.order) - gap_B1)
        return self.order[torch.where(place_BN < self.gap_start[index_B][:, None], place_BN, place_BN + gap_B1)]

    def same(self, index_B: Tensor, epoch: int) -> Tensor:
        """Return (B,) samples drawn from each sample's class, itself included; itself where the class is unknown."""
        draw_B = hashed(_POSITIVE, hashed(_SAMPLE, index_B) + epoch)
        return self.order[self.gap_start[index_B] + draw_B.remainder(self.gap[index_B])]


class Contrast(nn.Module):
    """One teacher and the student: embeddings, a memory bank a side and its normalising constant.

    Args:
        student, teacher: widths of the features.
        num_samples: rows of a bank.
        dim: width of the embeddings.
        temperature: tau > 0.
        number: which teacher; banks of different ones start differently.
    """

    banks: Tensor
    z: Tensor
    z_of_batch: Tensor

    def __init__(self, student: int, teacher: int, num_samples: int, dim: int, temperature: float, number: int):
        super().__init__()
        self.temperature = temperature
        self.embed = nn.ModuleList([nn.Linear(student, dim), nn.Linear(teacher, dim)])
        generator = torch.Generator().manual_seed(key_of("crd", "bank", number))
        bound = (3 / dim) ** 0.5  # rows of expected squared norm 1
        self.register_buffer("banks", (2 * torch.rand(2, num_samples, dim, generator=generator) - 1) * bound)
        self.register_buffer("z", torch.zeros(2))  # 0: not estimated yet
        self.register_buffer("z_of_batch", torch.zeros(2))

    def embeddings(self, student: Tensor, teacher: Tensor) -> list[Tensor]:
        """Return the (B, dim) embeddings of both sides, of length 1."""
        sides = zip(self.embed, (student, teacher), strict=True)
        return [F.normalize(embed(as_vector(feat)), dim=1) for embed, feat in sides]

    def forward(self, student: Tensor, teacher: Tensor, index_BM: Tensor) -> Tensor:
        """Return the loss of both directions: each side's embeddings against the other side's bank.

        Args:
            student, teacher: the features.
            index_BM: (B, 1 + N) rows of the bank: the positive, then the negatives.
        """
        num_samples = self.banks.shape[1]
        losses, constants = [], []
        for side, anchor_BD in enumerate(self.embeddings(student, teacher)):
            scores_BM = (bank_scores(anchor_BD, self.banks[1 - side], index_BM) / self.temperature).exp()
            constants.append(scores_BM.detach().mean() * num_samples)
            scores_BM = scores_BM / torch.where(self.z[side] > 0, self.z[side], constants[-1])
            losses.append(contrast_loss(scores_BM[:, 0], scores_BM[:, 1:], num_samples))
        with torch.no_grad():
            self.z_of_batch.copy_(torch.stack(constants))
        return losses[0] + losses[1]

    @torch.no_grad()
    def update(self, student: Tensor, teacher: Tensor, index_B: Tensor, momentum: float) -> None:
        """Keep the first batch's constants, and move the batch's rows of both banks towards its embeddings."""
        self.z.copy_(torch.where(self.z > 0, self.z, self.z_of_batch))
        for bank_ND, new_BD in zip(self.banks, self.embeddings(student, teacher), strict=True):
            moved_BD = momentum * bank_ND[index_B] + (1 - momentum) * new_BD
            bank_ND.index_copy_(0, index_B, F.normalize(moved_BD, dim=1))


class CRD(Method):
    """A sample's student and teacher embeddings are told from those of other samples, kept in memory banks."""

    api = 1
    paper = "Tian et al., Contrastive Representation Distillation, ICLR 2020"
    year = 2020
    url = "https://arxiv.org/abs/1910.10699"
    equation = (
        "cross-entropy - weight · sum over both directions of E[log(h / (h + N / M))] + "
        "N · E[log(1 - h' / (h' + N / M))], h = exp(student · teacher / T) / Z of a true pair, "
        "h' of a false one, N negatives, M training samples"
    )
    knowledge = "relation"
    teachers = (1, None)
    batch = "global"
    hard_labels = True  # a row of a bank stands for one sample, of one class

    @dataclass
    class Config(RelatedLayers):
        weight: float = option(0.8, "weight of the contrastive term, both directions together", min=0.0)
        negatives: Optional[int] = option(
            None,
            "negatives of a sample, drawn with repetition; default: the paper's 16384, but no more than there are "
            "other training samples",
            min=1,
        )
        negatives_from: str = option(
            "classes",
            "classes: samples not known to be of the same class; samples: any others",
            choices=("classes", "samples"),
        )
        positives: str = option(
            "exact",
            "a sample's positive; exact: its own entry in the bank; relaxed: that of any sample of its class, drawn "
            "anew every epoch, an option of the authors' code",
            choices=("exact", "relaxed"),
            late=True,
        )
        temperature: float = option(0.07, "tau, divides similarities in [-1, 1]", min=0.02)
        momentum: float = option(0.5, "share of its old value that a row of a memory bank keeps", min=0.0, max=1.0)
        dim: int = option(
            128, "width of the embeddings; the banks take 8 · width bytes a training sample and teacher", min=1
        )

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        return related_taps("crd", cfg)

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        if setup.num_samples < 2:
            raise InputError("crd contrasts a sample with others: it needs at least 2 training samples.")
        self.count: int = cfg.negatives or min(PAPER_NEGATIVES, setup.num_samples - 1)
        self.draw = Negatives(setup.num_samples, setup.labels if cfg.negatives_from == "classes" else None)
        self.alike = Negatives(setup.num_samples, setup.labels) if cfg.positives == "relaxed" else None
        self.contrasts = nn.ModuleList(
            Contrast(width(student), width(teacher), setup.num_samples, cfg.dim, cfg.temperature, number)
            for number, (student, teacher) in enumerate(related_shapes(setup))
        )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        negatives_BN = self.draw(batch.index, batch.epoch, self.count)
        positive_B = batch.index if self.alike is None else self.alike.same(batch.index, batch.epoch)
        index_BM = torch.cat([positive_B[:, None], negatives_BN], dim=1)
        # One term: the teacher's direction alone gives the student no gradient.
        losses: list[Tensor] = [
            contrast(student, teacher, index_BM)
            for contrast, (student, teacher) in zip(self.contrasts, related(batch), strict=True)
        ]
        return {"contrast": self.cfg.weight * sum(losses[1:], losses[0])}

    @torch.no_grad()
    def after_step(self, batch: Batch) -> None:
        for contrast, (student, teacher) in zip(self.contrasts, related(batch), strict=True):
            assert isinstance(contrast, Contrast)
            contrast.update(student, teacher, batch.index, self.cfg.momentum)
