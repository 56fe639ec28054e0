"""A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer Learning.
Yim et al., CVPR 2017. https://openaccess.thecvf.com/content_cvpr_2017/html/Yim_A_Gift_From_CVPR_2017_paper.html

The paper pairs networks of equal widths. Where they differ a learned 1x1 convolution brings the student's map to the
teacher's channels; it trains in the first stage and is thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Optional

import torch.nn.functional as F
from torch import Tensor

from kdtool import Batch, Method, Setup, Stage, Taps, option
from kdtool.errors import InputError
from kdtool.layers import layer_pairs
from kdtool.losses import at_least_fp32, inner
from kdtool_methods._maps import PairedLayers, require_equal, total
from kdtool_methods._stages import InitOptions, init_stage

Pair = tuple[Tensor, Tensor]


def flow_loss(student_pairs: Sequence[Pair], teacher_pairs: Sequence[Pair], pool: str = "max") -> Tensor:
    """Return the mean squared difference of the FSP matrices, summed over the pairs of layers (Eq. 2).

    Args:
        student_pairs: (first, second) maps (B, C1, H, W) and (B, C2, H', W') of each pair of layers.
        teacher_pairs: as many, each with the same numbers of channels.
        pool: how the larger map of a pair is brought to the other's size, see ``flow``.

    Raises:
        ValueError: unequal numbers of pairs, or of channels, or an unknown ``pool``.
    """
    if len(student_pairs) != len(teacher_pairs) or not student_pairs:
        raise ValueError(f"{len(student_pairs)} student pair(s) do not match {len(teacher_pairs)} teacher pair(s)")
    losses = []
    for ours, theirs in zip(student_pairs, teacher_pairs, strict=True):
        student_BCD, teacher_BCD = flow(*ours, pool), flow(*theirs, pool)
        require_equal(student_BCD, teacher_BCD)
        losses.append((student_BCD - teacher_BCD).square().mean())
    return total(losses)


def flow(first: Tensor, second: Tensor, pool: str = "max") -> Tensor:
    """Return the FSP matrices (B, C1, C2) of two maps: mean over positions of the products of their channels (Eq. 1).

    Args:
        first: (B, C1, H, W).
        second: (B, C2, H', W').
        pool: "max" pools the larger map, as in the paper; "mean" averages it.

    Raises:
        ValueError: an unknown ``pool``.
    """
    if pool not in ("max", "mean"):
        raise ValueError(f"pool must be 'max' or 'mean', not {pool!r}")
    first, second = at_least_fp32(first), at_least_fp32(second)
    size = min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3])
    shrink = F.adaptive_max_pool2d if pool == "max" else F.adaptive_avg_pool2d
    first_BCN, second_BDN = (
        (feat if tuple(feat.shape[2:]) == size else shrink(feat, size)).flatten(2) for feat in (first, second)
    )
    return inner(first_BCN, second_BDN / second_BDN.shape[2])


class FSP(Method):
    """Two stages: the student learns how features flow from layer to layer of the teacher, then the task."""

    api = 1
    paper = (
        "Yim et al., A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer "
        "Learning, CVPR 2017"
    )
    year = 2017
    url = "https://openaccess.thecvf.com/content_cvpr_2017/html/Yim_A_Gift_From_CVPR_2017_paper.html"
    equation = (
        "stage init: weight · sum over pairs of layers mean (G_student - G_teacher)^2, G = F1^T F2 / (H·W); "
        "stage distill: cross-entropy"
    )
    knowledge = "relation"
    teachers = (1, None)

    @dataclass
    class Config(InitOptions):
        weight: float = option(1.0, "weight of the flow term, the only one of stage init", min=0.0)
        layers: list[float] = option(
            [0.0, 0.33, 0.67, 1.0],
            "relative depths of the layers, ascending: each and the next are a pair; 0 first stage, 1 last. Where a "
            "student's layer has not the teacher's channels, a learned 1x1 convolution projects it",
            min=0.0,
            max=1.0,
        )
        student_layers: Optional[list[str]] = option(None, "dotted names of the student's layers, instead of depths")
        teacher_layers: Optional[list[str]] = option(None, "dotted names of the teacher's layers, instead of depths")
        pool: str = option(
            "max", "how the larger map of a pair of layers shrinks; max: the paper's", choices=("max", "mean")
        )

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        taps = layer_pairs("fsp", cfg.layers, cfg.student_layers, cfg.teacher_layers)
        if len(taps.student["stages"]) < 2:  # type: ignore[arg-type]
            raise InputError("fsp compares the flow between two layers: give at least two (fsp.layers).")
        return taps

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        self.layers = PairedLayers.of(setup)
        self.projections = self.layers.projections()

    def flows(self, batch: Batch) -> dict[str, Tensor]:
        """Stage 1: the FSP matrices alone, summed over teachers."""
        losses, projections = [], iter(self.projections)
        for pairs in self.layers.maps(batch):
            ours = [next(projections)(feat) for feat, _ in pairs]
            theirs = [feat for _, feat in pairs]
            losses.append(flow_loss(list(pairwise(ours)), list(pairwise(theirs)), self.cfg.pool))
        return {"flow": self.cfg.weight * total(losses)}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Stage 2: the hard labels alone, which the engine adds."""
        return {}

    def stages(self) -> list[Stage]:
        return [
            init_stage(self.flows, self.cfg),
            Stage("distill", self.loss, trains=("student",)),
        ]
