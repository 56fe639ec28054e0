"""Masked Generative Distillation. Yang et al., ECCV 2022. https://arxiv.org/abs/2205.01529

The paper's equations mask positions of the student's map; the authors' code for classification masks whole channels.
``mask`` chooses. Masks are no draws from a generator, but follow from sample, epoch and layer, so that a resumed run
has the same.

The paper's weight, 7e-5 for classification, multiplies a sum over the entries of a teacher's map. Where
``weight`` is not given it is that for a map of 512x7x7 entries, and as much a mean over others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Optional

import torch
from torch import Tensor, nn

from kdtool import Batch, Method, Setup, Taps, option
from kdtool.layers import layer_pairs, resize_map, width
from kdtool.losses import at_least_fp32
from kdtool.method import Shape
from kdtool_methods._maps import PairedLayers, require_equal, size_of, total
from kdtool_methods._masking import draws, masked_independently

MEAN_WEIGHT = 7e-5 * 512 * 7 * 7  # of the ImageNet experiments


def generation_loss(generated: Tensor, teacher_map: Tensor) -> Tensor:
    """Return the squared differences, summed over entries, mean over B (Eq. 3).

    Args:
        generated: (B, C, H, W), what the generation block made of the masked student's map.
        teacher_map: the same shape.

    Raises:
        ValueError: unequal shapes.
    """
    require_equal(generated, teacher_map)
    return (at_least_fp32(generated) - at_least_fp32(teacher_map)).square().sum() / len(generated)


class Generator(nn.Module):
    """Aligns a student's map with a teacher's, masks it and generates the teacher's map from the rest.

    Args:
        student, teacher: shapes of the features, without the batch.
    """

    def __init__(self, student: Shape, teacher: Shape):
        super().__init__()
        channels = width(teacher)
        self.size = size_of(teacher)
        self.align = nn.Identity() if width(student) == channels else nn.Conv2d(width(student), channels, 1)
        self.generate = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)
        )

    def forward(self, feat_BCHW: Tensor, hidden: Tensor) -> Tensor:
        """Return (B, C, H, W) of the teacher's map.

        Args:
            feat_BCHW: the student's map.
            hidden: bool, (B, C, 1, 1) or (B, 1, H, W): the channels or positions of the aligned map that are masked.
        """
        aligned = resize_map(self.align(feat_BCHW), self.size)
        out: Tensor = self.generate(torch.where(hidden, 0.0, aligned))
        return out


class MGD(Method):
    """From a part of its own map the student has to generate the teacher's whole map."""

    api = 1
    paper = "Yang et al., Masked Generative Distillation, ECCV 2022"
    year = 2022
    url = "https://arxiv.org/abs/2205.01529"
    equation = (
        "cross-entropy + weight · sum over layers and entries (teacher - generate(align(student) · mask))^2 / B, "
        "mask: each position 0 with probability ratio, else 1"
    )
    knowledge = "feature"
    teachers = (1, None)

    @dataclass
    class Config:
        weight: Optional[float] = option(
            None,
            "alpha, weight of the term, a sum over entries; default: 1.756 / entries of the teacher's map, which is "
            "the paper's 7e-5 on 512x7x7 entries",
            min=0.0,
        )
        ratio: float = option(
            0.15, "lambda, share that is masked; the paper: 0.15 for classification", min=0.0, max=1.0
        )
        mask: str = option(
            "positions",
            "what is masked; positions: as in the paper's equations; channels: as in the authors' code for "
            "classification",
            choices=("positions", "channels"),
        )
        layers: list[float] = option(
            [1.0], "relative depths of the layers paired, on both sides; 0 first stage, 1 last", min=0.0, max=1.0
        )
        student_layers: Optional[list[str]] = option(None, "dotted names of the student's layers, instead of depths")
        teacher_layers: Optional[list[str]] = option(None, "dotted names of the teacher's layers, instead of depths")

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        return layer_pairs("mgd", cfg.layers, cfg.student_layers, cfg.teacher_layers)

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        self.layers = PairedLayers.of(setup)
        self.generators = nn.ModuleList(Generator(ours, theirs) for ours, theirs in self.layers.shapes)
        self.weights = [
            MEAN_WEIGHT / math.prod(shape) if cfg.weight is None else float(cfg.weight)
            for _, shape in self.layers.shapes
        ]

    def hidden(self, batch: Batch, layer: int, teacher_map: Tensor) -> Tensor:
        """Return what is masked of a layer in this epoch: bool (B, C, 1, 1) or (B, 1, H, W)."""
        _, channels, *size = teacher_map.shape
        count = channels if self.cfg.mask == "channels" else math.prod(size)
        masked_BN = masked_independently(draws(batch.index, batch.epoch, layer, count), self.cfg.ratio)
        return masked_BN[:, :, None, None] if self.cfg.mask == "channels" else masked_BN.view(-1, 1, *size)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        pairs = self.layers.all_maps(batch)
        losses = []
        for layer, (generator, (ours, theirs)) in enumerate(zip(self.generators, pairs, strict=True)):
            generated = generator(ours, self.hidden(batch, layer, theirs))
            losses.append(self.weights[layer] * generation_loss(generated, theirs))
        return {"generation": total(losses)}
