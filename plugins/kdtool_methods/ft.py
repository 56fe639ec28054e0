"""Paraphrasing Complex Network: Network Compression via Factor Transfer. Kim et al., NeurIPS 2018.
https://arxiv.org/abs/1802.04977

The authors' released code leaves batch norm out of paraphraser and translator (``batch_norm=false``), reconstructs
under the absolute instead of the squared error (``reconstruction=absolute``) and trains the paraphraser for 6 epochs.

Paper and authors' code compare the whole factor, every channel, under a weight of 500; so does the default. The code of
Tian et al. (ICLR 2020), whose rows the tables of CIFAR-100 show, compares the channels' mean of squares alone
(``factor=energy``) under 200, a batch norm in the translator only, and trains the paraphraser for 30 epochs at a
constant rate of 0.01 (0.05 for VGG and mobile students). The two gradients have next to nothing in common.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtool import Batch, Method, Setup, Stage, Taps, option
from kdtool.layers import Resampler, as_map, map_shape, packed, token_shares, unit_rows, width
from kdtool.losses import at_least_fp32, mean_over
from kdtool.method import Shape
from kdtool.recipe.rates import SCHEDULES

PARAPHRASE_SHARE = 0.1  # of train.epochs, where ft.paraphrase_epochs is not given
ENERGY_WEIGHT = 200.0  # of Tian et al., for factor=energy
BETA, BETA_ENTRIES = 500.0, 2048  # the authors' weight for p=1, and the factor's entries (32 x 8 x 8) that go with it


def factor_loss(student_factor: Tensor, teacher_factor: Tensor, p: int = 1, share_B: Tensor | None = None) -> Tensor:
    """Return the distance of two factors, each flattened per sample and divided by its L2 norm.

    Args:
        student_factor: the translator's output (B, ...).
        teacher_factor: the paraphraser's, the same shape.
        p: 1: mean absolute difference over all entries; 2: mean over B of the L2 distance.
        share_B: (B,) weights that stand for 1 / B, where rows do not count alike.

    Raises:
        ValueError: unequal shapes, or another p.
    """
    if student_factor.shape != teacher_factor.shape:
        raise ValueError(f"shapes differ: student {tuple(student_factor.shape)}, teacher {tuple(teacher_factor.shape)}")
    difference_BN = unit_rows(at_least_fp32(student_factor)) - unit_rows(at_least_fp32(teacher_factor))
    if p == 1:
        return mean_over(difference_BN.abs(), share_B)
    if p == 2:
        distance_B: Tensor = torch.linalg.vector_norm(difference_BN, dim=1)
        return mean_over(distance_B, share_B)
    raise ValueError(f"p must be 1 or 2, not {p!r}")


def energy(factor_BCHW: Tensor) -> Tensor:
    """Return (B, H, W): the mean over channels of a factor's squares."""
    return at_least_fp32(factor_BCHW).square().mean(1)


def _block(c_in: int, c_out: int, batch_norm: bool, transposed: bool = False) -> nn.Sequential:
    convolution = nn.ConvTranspose2d if transposed else nn.Conv2d
    norm = nn.BatchNorm2d(c_out) if batch_norm else nn.Identity()
    return nn.Sequential(convolution(c_in, c_out, 3, padding=1, bias=not batch_norm), norm, nn.LeakyReLU(0.1))


def _encoder(c_in: int, c_out: int, batch_norm: bool) -> nn.Sequential:
    widths = [(c_in, c_in), (c_in, c_out), (c_out, c_out)]
    return nn.Sequential(*(_block(*pair, batch_norm) for pair in widths))


class Paraphraser(nn.Module):
    """An autoencoder of the teacher's map: its code is the teacher's factor, three 3x3 convolutions deep.

    Args:
        channels: C of the teacher's map.
        factors: channels of the factor.
        batch_norm: after each convolution.
    """

    def __init__(self, channels: int, factors: int, batch_norm: bool = True):
        super().__init__()
        self.encoder = _encoder(channels, factors, batch_norm)
        widths = [(factors, factors), (factors, channels), (channels, channels)]
        self.decoder = nn.Sequential(*(_block(*pair, batch_norm, transposed=True) for pair in widths))

    def factor(self, feat_BCHW: Tensor) -> Tensor:
        """Return the factor (B, factors, H, W)."""
        factor: Tensor = self.encoder(feat_BCHW)
        return factor

    def forward(self, feat_BCHW: Tensor) -> Tensor:
        """Return the reconstruction (B, C, H, W)."""
        out: Tensor = self.decoder(self.encoder(feat_BCHW))
        return out


class FT(Method):
    """Two stages: a paraphraser learns the teacher's factors, then the student's translator learns to give them."""

    api = 1
    paper = "Kim et al., Paraphrasing Complex Network: Network Compression via Factor Transfer, NeurIPS 2018"
    year = 2018
    url = "https://arxiv.org/abs/1802.04977"
    equation = (
        "stage paraphrase: mean (paraphraser(teacher) - teacher)^2, training the paraphraser alone; stage distill: "
        "cross-entropy + weight · ||F_student / ||F_student||_2 - F_teacher / ||F_teacher||_2||_p, "
        "F: factors by translator and encoder"
    )
    knowledge = "feature"
    teachers = (1, None)

    @dataclass
    class Config:
        weight: Optional[float] = option(
            None,
            "beta, weight of the factor term; default: 500, as in the authors' code, times the square root of the "
            "factor's entries over theirs (32x8x8), since a mean over entries of unit vectors shrinks like that; "
            "for p=2, which does not, 500 / sqrt(32x8x8) = 11; for factor=energy 200",
            min=0.0,
        )
        factor: str = option(
            "whole",
            "what of the factors is compared. whole: all of them, as in paper and authors' code; energy: the channels' "
            "mean of squares, as in the tables of CIFAR-100",
            choices=("whole", "energy"),
        )
        p: int = option(1, "norm of the factors' difference", choices=(1, 2))
        rate: float = option(0.5, "k, the factor's channels over the teacher's", min=0.001, max=8.0)
        paraphrase_epochs: Optional[int] = option(
            None, "epochs of stage paraphrase, on top of train.epochs; default: 10% of them", min=1
        )
        paraphrase_lr: Optional[float] = option(
            None, "peak learning rate of stage paraphrase; default: optim.lr", min=0.0
        )
        paraphrase_schedule: Optional[str] = option(
            None, "schedule of stage paraphrase; default: schedule.name, shrunk to the stage", choices=SCHEDULES
        )
        reconstruction: str = option(
            "squared", "error of the paraphraser; the authors' code: absolute", choices=("squared", "absolute")
        )
        batch_norm: bool = option(True, "in paraphraser and translator; the authors' code: false")
        translator_norm: Optional[bool] = option(None, "batch norm in the translator; default: as batch_norm says")
        student_layer: Optional[str] = option(None, "dotted name of the student's layer, instead of its last stage")
        teacher_layer: Optional[str] = option(None, "dotted name of the teacher's layer, instead of its last stage")

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        student, teacher = cfg.student_layer or -1, cfg.teacher_layer or -1
        return Taps(student={"map": student}, teacher={"map": teacher})

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        student = setup.student["map"]
        translator_norm = cfg.batch_norm if cfg.translator_norm is None else cfg.translator_norm
        self.paraphrasers, self.translators = nn.ModuleList(), nn.ModuleList()
        self.resamplers: list[Resampler] = []
        self.weights: list[float] = []
        for shapes in setup.teachers:
            channels = width(shapes["map"])
            factors = max(1, round(cfg.rate * channels))
            self.paraphrasers.append(Paraphraser(channels, factors, cfg.batch_norm))
            self.translators.append(_encoder(width(student), factors, translator_norm))
            self.resamplers.append(Resampler(student, shapes["map"]))
            self.weights.append(self._weight((factors, *self.resamplers[-1].size)))

    def _weight(self, factor: Shape) -> float:
        if self.cfg.weight is not None:
            return float(self.cfg.weight)
        if self.cfg.factor == "energy":
            return ENERGY_WEIGHT
        entries = math.prod(map_shape(factor)) if self.cfg.p == 1 else 1
        return BETA * math.sqrt(entries / BETA_ENTRIES)

    def paraphrase(self, batch: Batch) -> dict[str, Tensor]:
        """Stage 1: each paraphraser learns to reconstruct its teacher's map, summed over teachers."""
        error = F.mse_loss if self.cfg.reconstruction == "squared" else F.l1_loss
        maps = [as_map(packed(teacher.taps["map"], batch.student.mask)) for teacher in batch.teachers]
        shares = token_shares(batch, [teacher.taps["map"] for teacher in batch.teachers])
        losses = [
            mean_over(error(paraphraser(x), x, reduction="none"), share_B)
            for paraphraser, x, share_B in zip(self.paraphrasers, maps, shares, strict=True)
        ]
        return {"reconstruction": sum(losses[1:], losses[0])}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Stage 2: the student's factor meets the teacher's, the larger pooled; summed over teachers."""
        mask = batch.student.mask
        student = as_map(packed(batch.student.taps["map"], mask))
        shares = token_shares(batch, [teacher.taps["map"] for teacher in batch.teachers])
        losses = []
        for i, teacher in enumerate(batch.teachers):
            paraphraser = self.paraphrasers[i]
            assert isinstance(paraphraser, Paraphraser)
            with torch.no_grad():  # so that the engine freezes the paraphraser in this stage
                map_BCHW = as_map(packed(teacher.taps["map"], mask))
                teacher_factor = self.resamplers[i](paraphraser.factor(map_BCHW))
            student_factor = self.resamplers[i](self.translators[i](student))
            if self.cfg.factor == "energy":
                student_factor, teacher_factor = energy(student_factor), energy(teacher_factor)
            losses.append(self.weights[i] * factor_loss(student_factor, teacher_factor, self.cfg.p, shares[i]))
        return {"factor": sum(losses[1:], losses[0])}

    def stages(self) -> list[Stage]:
        cfg = self.cfg
        paraphrase = Stage(
            "paraphrase",
            self.paraphrase,
            epochs=cfg.paraphrase_epochs or PARAPHRASE_SHARE,
            trains=("method",),
            task_weight=0.0,
            lr=cfg.paraphrase_lr,
            schedule=cfg.paraphrase_schedule,
        )
        return [paraphrase, Stage("distill", self.loss)]
