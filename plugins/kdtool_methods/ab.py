"""Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons. Heo et al., AAAI 2019.
https://arxiv.org/abs/1811.03233

The paper compares features before the activation, and so both sides are read: before a stage's last activation, or,
where the next block begins with a norm and an activation (Wide ResNet, ResNet v2), behind that norm. Where a network
has no such module (linear bottlenecks, transformer blocks, activations that are functions) the stage's feature itself
is compared; of a teacher's ReLU that is the same, since only signs count. ``student_layers`` and ``teacher_layers`` can
name other places (``layer4.1.act2:in``).

As in the authors' code, and in that of Tian et al. (ICLR 2020), features of one shape are compared as they are; a
connector (1x1 convolution, batch norm) stands only between unequal ones, and goes with the first stage.

The authors' code multiplies the loss by 1/1000 (3/1000 on CIFAR, in Tian et al. too) and the layers, from the deepest
on, by 1, 1/2, 1/4. The default keeps 1/1000 of 2048x7x7 entries as a mean: a map of 256x8x8 gets 0.0061, one of 64x8x8
0.024; ``weight=0.003`` is theirs. Their first stage has the full learning rate throughout
(``init_schedule=constant``). The second on CIFAR-10 is KD alone, without T^2 and without hard labels
(``hard_weight=0``); in Tian et al. it is hard labels alone (``soft_weight=0``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Optional

import torch
from torch import Tensor, nn

from kdtool import Batch, Method, Setup, Stage, Taps, option
from kdtool.layers import Resampler, as_map, layer_pairs, map_shape, paired_tokens
from kdtool.losses import at_least_fp32, ensemble_logits, softened_kl
from kdtool.method import Shape
from kdtool_methods._stages import InitOptions, init_stage

DEEPEST_SCALE = 100.0  # the authors' 1/1000 on a teacher's map of 2048 x 7 x 7 entries


def boundary_loss(
    student_pre: Tensor, teacher_pre: Tensor, margin: float = 1.0, share_B: Tensor | None = None
) -> Tensor:
    """Return the alternative loss of the activation transfer loss, summed over entries, mean over B.

    Where the teacher's neuron is active: max(0, margin - s)^2, else max(0, margin + s)^2.

    Args:
        student_pre: pre-activations (B, ...), through the connector.
        teacher_pre: pre-activations of the same shape; active where > 0.
        margin: mu > 0, how far from the boundary the student should be.
        share_B: (B,) weights that stand for 1 / B, where rows do not count alike; see ``kdtool.layers.token_shares``.

    Raises:
        ValueError: unequal shapes.
    """
    if student_pre.shape != teacher_pre.shape:
        raise ValueError(f"shapes differ: student {tuple(student_pre.shape)}, teacher {tuple(teacher_pre.shape)}")
    student_pre = at_least_fp32(student_pre)
    outward = torch.where(teacher_pre > 0, student_pre, -student_pre)
    short = (margin - outward).clamp_min(0).square()
    if share_B is None:
        return short.sum() / len(student_pre)
    return (short.flatten(1).sum(1) * share_B).sum()


class Connector(nn.Module):
    """Brings a student's feature to a teacher's shape: 1x1 convolution, resizing, batch norm.

    The student is resized, never the teacher: an average of its neurons has another boundary.

    Args:
        student: shape of the student's feature, without the batch.
        teacher: shape of the teacher's feature.
    """

    def __init__(self, student: Shape, teacher: Shape):
        super().__init__()
        channels, *size = map_shape(teacher)
        self.resampler = Resampler(student, teacher, (size[0], size[1]))
        self.project = nn.Conv2d(map_shape(student)[0], channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, feat: Tensor) -> Tensor:
        """Return (B, C, H, W) of the teacher's map."""
        out: Tensor = self.norm(self.resampler(self.project(as_map(feat))))
        return out


def connector(student: Shape, teacher: Shape) -> nn.Module:
    """Return what stands between two features: nothing where their maps have one shape, else a ``Connector``."""
    return nn.Identity() if map_shape(student) == map_shape(teacher) else Connector(student, teacher)


class AB(Method):
    """Two stages: the student's neurons learn where the teacher's fire, then the student learns the task."""

    api = 1
    paper = (
        "Heo et al., Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons, AAAI 2019"
    )
    year = 2019
    url = "https://arxiv.org/abs/1811.03233"
    equation = (
        "stage init: sum over layers and neurons of max(0, margin - connector(student))^2 where the teacher is active, "
        "max(0, margin + connector(student))^2 elsewhere; stage distill: cross-entropy + soft_weight · T^2 · KL"
    )
    knowledge = "feature"
    teachers = (1, None)

    @dataclass
    class Config(InitOptions):
        margin: float = option(1.0, "mu, distance from the boundary that the student should reach", min=0.0)
        weight: Optional[float] = option(
            None,
            "weight of the boundary term, a sum over entries; default: 100 / entries of the deepest teacher map, which "
            "is the authors' 1/1000 on 2048x7x7 entries; on CIFAR they have 0.003",
            min=0.0,
        )
        layer_weights: str = option(
            "halving", "from the deepest layer on 1, 1/2, 1/4, as in the authors' code, or all equal",
            choices=("halving", "equal"),
        )  # fmt: skip
        layers: list[float] = option(
            [0.33, 0.67, 1.0], "relative depths of the layers paired, ascending; 0 first stage, 1 last",
            min=0.0, max=1.0,
        )  # fmt: skip
        student_layers: Optional[list[str]] = option(
            None, "dotted names of the student's layers, instead of depths; name:in is a module's input"
        )
        teacher_layers: Optional[list[str]] = option(None, "dotted names of the teacher's layers, instead of depths")
        temperature: float = option(3.0, "T of stage distill", min=0.01)
        soft_weight: float = option(1.0, "weight of T^2 · KL in stage distill; 0: hard labels alone", min=0.0)
        hard_weight: float = option(1.0, "weight of the hard labels in stage distill", min=0.0)

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        return layer_pairs("ab", cfg.layers, cfg.student_layers, cfg.teacher_layers, before_activation=True)

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        self.connectors = nn.ModuleList(
            connector(student, teacher)
            for shapes in setup.teachers
            for student, teacher in zip(setup.student["stages"], shapes["stages"], strict=True)
        )
        self.weights = [weight for shapes in setup.teachers for weight in self.layer_scales(shapes["stages"])]
        # A sequence's weight is for all of its tokens; with padding its mean token stands for them.
        self.tokens = [shape[0] if len(shape) == 2 else 1 for shapes in setup.teachers for shape in shapes["stages"]]

    def layer_scales(self, teacher: list[Shape]) -> list[float]:
        """Return the weight of each layer's loss for one teacher."""
        weight = self.cfg.weight
        if weight is None:
            weight = DEEPEST_SCALE / math.prod(teacher[-1])
        halving = self.cfg.layer_weights == "halving"
        return [weight * (0.5 ** (len(teacher) - 1 - layer) if halving else 1.0) for layer in range(len(teacher))]

    def boundary(self, batch: Batch) -> dict[str, Tensor]:
        """Stage 1: the student's neurons take the teacher's side of each boundary, summed over layers and teachers."""
        margin = self.cfg.margin
        losses = [
            weight
            * (tokens if teacher.ndim == 2 else 1)
            * boundary_loss(
                connect(as_map(student)),
                as_map(teacher),
                margin,
                share_B,
            )
            for connect, weight, tokens, (student, teacher, share_B) in zip(
                self.connectors, self.weights, self.tokens, paired_tokens(batch), strict=True
            )
        ]
        return {"boundary": sum(losses[1:], losses[0])}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Stage 2: KD beside the hard labels."""
        temperature = self.cfg.temperature
        teacher = ensemble_logits([out.logits for out in batch.teachers], temperature=temperature)
        return {"kl": self.cfg.soft_weight * softened_kl(batch.student.logits, teacher, temperature)}

    def stages(self) -> list[Stage]:
        return [
            init_stage(self.boundary, self.cfg),
            Stage("distill", self.loss, trains=("student",), task_weight=self.cfg.hard_weight),
        ]
