"""Paying More Attention to Attention: Improving the Performance of CNNs via Attention Transfer.
Zagoruyko & Komodakis, ICLR 2017. https://arxiv.org/abs/1612.03928

The paper's loss is half the p-norm of the difference of two normalised attention maps; the authors' code takes the mean
of its squared entries, and weighs that by 1000. ``form`` chooses.

Where ``weight`` is not given, 1000 holds for maps of 7x7 and more; a smaller one gets less, in proportion to its
positions (327 at 4x4), since the mean over few of them is larger. The code, and Tian et al. (ICLR 2020), have 1000 for
every map: ``weight=1000``.

Of the paper's mappings from a map to its attention there are the sum of the channels' |activation|^p (``over=sum``; a
mean, which is the same once normalised) and their largest (``over=max``).

``attention=gradient`` is the paper's other attention (section 3.2): the gradient of a network's loss by the image, as
it is, in the place of normalised maps. Training differentiates it once more, and the teacher runs live. The authors
published no code of it, and the paper no beta. Its symmetry norm (the student's gradient against that of the flipped
image) transfers nothing, and is not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtool import Batch, Method, Out, Setup, Taps, option
from kdtool.errors import InputError
from kdtool.layers import as_map, common_size, layer_pairs, resize_map, unit_rows
from kdtool.losses import at_least_fp32

WEIGHT = 1000.0  # of the authors' code
SMALLEST = 49  # positions of the smallest map it was used with, 7 x 7
GRADIENT_WEIGHT = 1.0
DEPTHS = (0.25, 0.5, 0.75, 1.0)
ENOUGH_POSITIONS = 16


def attention_loss(
    student_map: Tensor, teacher_map: Tensor, p: float = 2, form: str = "code", over: str = "sum"
) -> Tensor:
    """Return the distance of two maps' spatial attention, flattened and L2-normalised.

    Args:
        student_map: (B, C, H, W), or tokens (B, N, C).
        teacher_map: the same, with any C, H and W; the larger map is average-pooled.
        p: power >= 1 of the activation, and in the paper's form the norm too.
        form: "code": mean squared difference over all entries; "paper": half the p-norm of the difference, unsquared,
            mean over B.
        over: how |activation|^p of the channels becomes attention; "sum": their mean, which is their sum once
            normalised; "max": the largest.

    Raises:
        ValueError: an unknown form, or an unknown ``over``.
    """
    if over not in ("sum", "max"):
        raise ValueError(f"over must be 'sum' or 'max', not {over!r}")
    student_map, teacher_map = as_map(at_least_fp32(student_map)), as_map(at_least_fp32(teacher_map))
    size = common_size(student_map.shape[1:], teacher_map.shape[1:])
    difference_BN = _attention(student_map, size, p, over) - _attention(teacher_map, size, p, over)
    if form == "code":
        return difference_BN.square().mean()
    if form == "paper":
        distance_B: Tensor = torch.linalg.vector_norm(difference_BN, p, dim=1)
        return distance_B.mean() / 2
    raise ValueError(f"form must be 'code' or 'paper', not {form!r}")


def _attention(feat_BCHW: Tensor, size: tuple[int, int], p: float, over: str) -> Tensor:
    powers_BCHW = resize_map(feat_BCHW, size).abs().pow(p)
    return unit_rows(powers_BCHW.mean(1) if over == "sum" else powers_BCHW.amax(1))


def gradient_loss(student_grad: Tensor, teacher_grad: Tensor) -> Tensor:
    """Return half the Euclidean norm of the difference of two gradients by the image (J_S and J_T), mean over B.

    Args:
        student_grad: (B, C, H, W), of each sample's loss.
        teacher_grad: the same; equal shape.
    """
    apart_BN = (at_least_fp32(student_grad) - at_least_fp32(teacher_grad)).flatten(1)
    distance_B: Tensor = torch.linalg.vector_norm(apart_BN, dim=1)
    return distance_B.mean() / 2


def by_image(logits: Tensor, image: Tensor, labels: Tensor, differentiable: bool = False) -> Tensor:
    """Return the gradient of every sample's cross-entropy by its image; 0 without a label.

    Args:
        logits: (B, K), computed from ``image``.
        image: (B, C, H, W) that requires gradient.
        labels: (B,) classes, -1 for none, or (B, K) shares.
        differentiable: the gradient itself is to be differentiated.
    """
    if labels.ndim == 2:
        loss = -(labels * F.log_softmax(logits, 1)).sum()
    else:
        loss = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
    # The graph stays, since a step's loss may be asked for more than once.
    (found,) = torch.autograd.grad(loss, image, create_graph=differentiable, retain_graph=True)
    return found


class AT(Method):
    """The student looks where the teacher looks, at several depths."""

    api = 1
    paper = (
        "Zagoruyko & Komodakis, Paying More Attention to Attention: Improving the Performance of Convolutional Neural "
        "Networks via Attention Transfer, ICLR 2017"
    )
    year = 2017
    url = "https://arxiv.org/abs/1612.03928"
    equation = (
        "cross-entropy + weight · sum over layers mean (Q_student / ||Q_student|| - Q_teacher / ||Q_teacher||)^2, "
        "Q: sum (or maximum) over channels of |activation|^p; attention=gradient: weight · 1/2 · mean ||J_student - "
        "J_teacher||, J: gradient of cross-entropy by the image"
    )
    knowledge = "feature"
    teachers = (1, None)

    @dataclass
    class Config:
        weight: Optional[float] = option(
            None,
            "weight of the attention term; default: 1000, as in the authors' code, for a map of 7x7 or more, else in "
            "proportion to its positions (over which the loss is a mean); for form=paper, whose norm is no mean, that "
            "over the positions; for attention=gradient 1",
            min=0.0,
        )
        attention: str = option(
            "activation",
            "activation: of maps; gradient: of the loss by the image, which has no p, over, form or layers",
            choices=("activation", "gradient"),
            late=True,
        )
        p: float = option(2.0, "power of the activations", min=1.0)
        over: str = option(
            "sum",
            "how the channels' powers become attention: their sum, or the largest",
            choices=("sum", "max"),
            late=True,
        )
        form: str = option(
            "code", "code: mean squared difference, as in the authors' code; paper: half the p-norm of the difference",
            choices=("code", "paper"),
        )  # fmt: skip
        layers: Optional[list[float]] = option(
            None,
            "relative depths of the layers compared, on both sides; 0 first stage, 1 last; default: those of 0.25, "
            "0.5, 0.75 and 1 where the maps share at least 16 positions (fewer say next to nothing of the image), or "
            "the one where they share most",
            min=0.0,
            max=1.0,
        )
        student_layers: Optional[list[str]] = option(None, "dotted names of the student's layers, instead of depths")
        teacher_layers: Optional[list[str]] = option(None, "dotted names of the teacher's layers, instead of depths")

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        if cfg.attention == "gradient":
            if cfg.layers or cfg.student_layers or cfg.teacher_layers:
                raise InputError("at.attention=gradient is by the image, and has no layers: leave them out.")
            return Taps({"image": "input"}, {"image": "input"})
        depths = cfg.layers or (() if cfg.student_layers or cfg.teacher_layers else DEPTHS)
        return layer_pairs("at", depths, cfg.student_layers, cfg.teacher_layers)

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        if cfg.attention == "gradient":
            return
        chosen = bool(cfg.layers or cfg.student_layers or cfg.teacher_layers)
        # Of each teacher, the weights of the pairs that are compared.
        self.weights: list[dict[int, float]] = []
        for shapes in setup.teachers:
            sizes = [common_size(*pair) for pair in zip(setup.student["stages"], shapes["stages"], strict=True)]
            positions = [height * width for height, width in sizes]
            pairs = _pick(positions, chosen)
            self.weights.append({pair: self._weight(positions[pair]) for pair in pairs})

    def _weight(self, positions: int) -> float:
        if self.cfg.weight is not None:
            return float(self.cfg.weight)
        mean = WEIGHT * min(1.0, positions / SMALLEST)
        return mean if self.cfg.form == "code" else mean / positions

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        if self.cfg.attention == "gradient":
            return {"attention": self._gradient_term(batch)}
        student = batch.student.taps["stages"]
        losses = [
            weight
            * attention_loss(student[pair], teacher.taps["stages"][pair], self.cfg.p, self.cfg.form, self.cfg.over)
            for weights, teacher in zip(self.weights, batch.teachers, strict=True)
            for pair, weight in weights.items()
        ]
        return {"attention": sum(losses[1:], losses[0])}

    def _gradient_term(self, batch: Batch) -> Tensor:
        def gradient(out: Out, differentiable: bool) -> Tensor:
            return by_image(out.logits, out.taps["image"], batch.labels, differentiable)

        own = gradient(batch.student, differentiable=True)
        losses = [gradient_loss(own, gradient(teacher, differentiable=False)) for teacher in batch.teachers]
        return (GRADIENT_WEIGHT if self.cfg.weight is None else self.cfg.weight) * sum(losses[1:], losses[0])


def _pick(positions: list[int], chosen: bool) -> list[int]:
    """Return which of the tapped pairs are compared: all that the user chose, else those that are large enough.

    Raises:
        InputError: all share one position only. A normalised map of one number is 1.
    """
    if max(positions) < 2:
        raise InputError(
            "at compares where maps are active, but none of its pairs of maps shares more than one position: "
            "choose layers with larger maps (at.layers) or a larger data.image_size."
        )
    large = [pair for pair, count in enumerate(positions) if chosen or count >= ENOUGH_POSITIONS]
    return large or [max(range(len(positions)), key=lambda pair: (positions[pair], pair))]
