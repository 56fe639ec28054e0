"""Be Your Own Teacher: Improve the Performance of Convolutional Neural Networks via Self Distillation.
Zhang et al., ICCV 2019. https://arxiv.org/abs/1905.08094

As in the paper, and in the authors' code, the divergence of softened probabilities carries no factor T^2. The paper
gives no values of alpha, lambda and T; alpha = 0.3 and T = 3 are those of the authors' code. Its hint is not the
paper's: 0.03 times the norm, not squared, of the whole batch's difference, behind a learned linear layer that is to
soften its influence, and none for the shallowest exit; another version has none at all (``beta=0``). Under the paper's
squared sum over D entries 0.03 lets the hint supply most of the gradient. The default here is 0.03 / D, a mean over
entries; a widely used reimplementation has 1.3e-4 at D = 512, twice that.

The exits and their ensemble, the mean of all classifiers' logits as in the authors' test code, are measured beside the
student in ``metrics.jsonl`` and ``result.json``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Optional

from torch import Tensor, nn

from kdtool import Batch, Method, Out, Setup, Taps, option
from kdtool.errors import InputError
from kdtool.layers import as_map, as_vector, map_shape, token_mean, width
from kdtool.losses import at_least_fp32, softened_kl
from kdtool.method import Shape

BETA = 0.03  # of the authors' code


def exit_loss(
    exit_logits: Tensor,
    exit_feat: Tensor,
    deepest_logits: Tensor,
    deepest_feat: Tensor,
    labels_loss: Tensor | float = 0.0,
    *,
    temperature: float = 3.0,
    alpha: float = 0.3,
    beta: float = 0.03,
) -> Tensor:
    """Return one exit's loss, the deepest classifier's outputs being constants.

    (1 - alpha) · labels_loss + alpha · KL(softmax(deepest / T) || softmax(exit / T)) + beta · ||exit - deepest||^2 of
    the features, the last two as means over the batch.

    Args:
        exit_logits: (B, K).
        exit_feat: (B, D) or any (B, ...), flattened.
        deepest_logits: (B, K).
        deepest_feat: as large as ``exit_feat``.
        labels_loss: scalar, the exit's hard-label loss; 0 leaves the distillation terms.
        temperature: T > 0.
        alpha: share of the soft labels, in [0, 1].
        beta: weight of the hint; the paper's lambda. The class chooses it for the width of the features.

    Raises:
        ValueError: the features differ in size.
    """
    kl, hint = exit_parts(exit_logits, exit_feat, deepest_logits, deepest_feat, temperature)
    return (1 - alpha) * labels_loss + alpha * kl + beta * hint


def exit_parts(
    exit_logits: Tensor, exit_feat: Tensor, deepest_logits: Tensor, deepest_feat: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return an exit's divergence and its hint loss, unweighted. Arguments and errors are those of ``exit_loss``."""
    exit_feat, deepest_feat = exit_feat.flatten(1), deepest_feat.flatten(1)
    if exit_feat.shape != deepest_feat.shape:
        raise ValueError(f"features differ in size: exit {tuple(exit_feat.shape)}, deepest {tuple(deepest_feat.shape)}")
    kl = softened_kl(exit_logits, deepest_logits.detach(), temperature) / temperature**2
    apart_BD = at_least_fp32(exit_feat) - at_least_fp32(deepest_feat).detach()
    return kl, apart_BD.square().sum(1).mean()


class Exit(nn.Module):
    """A shallow classifier: bottlenecks that halve the map down to the last stage's, pooling, a linear layer.

    Nothing follows the last norm, since many networks' embeddings take both signs.

    Args:
        shape: of the tapped feature, without the batch.
        last: of the last stage's feature.
        width: of the deepest embedding, which the exit's embedding is compared with.
        num_classes: K.
    """

    def __init__(self, shape: Shape, last: Shape, width: int, num_classes: int):
        super().__init__()
        (channels, *size), (_, *last_size) = map_shape(shape), map_shape(last)
        larger = max(1.0, *(own / other for own, other in zip(size, last_size, strict=True)))
        halvings = math.ceil(math.log2(larger))
        steps = max(1, halvings)
        widths = [round(channels * (width / channels) ** (step / steps)) for step in range(steps + 1)]
        layers: list[nn.Module] = []
        for pair in pairwise(widths):
            layers += [nn.ReLU(), _bottleneck(*pair, stride=2 if halvings else 1)]
        self.layers = nn.Sequential(*layers[1:])
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, feat: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, K) and the embedding (B, width)."""
        embedding = as_vector(self.layers(as_map(feat)))
        return self.classifier(embedding), embedding


def _bottleneck(c_in: int, c_out: int, stride: int) -> nn.Sequential:
    inner = max(1, c_out // 4)
    return nn.Sequential(
        nn.Conv2d(c_in, inner, 1, bias=False),
        nn.BatchNorm2d(inner),
        nn.ReLU(),
        nn.Conv2d(inner, inner, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(inner),
        nn.ReLU(),
        nn.Conv2d(inner, c_out, 1, bias=False),
        nn.BatchNorm2d(c_out),
    )


class BYOT(Method):
    """The student's shallow exits learn from its deepest classifier. They are the method's: none ships."""

    api = 1
    paper = "Zhang et al., Be Your Own Teacher, ICCV 2019"
    year = 2019
    url = "https://arxiv.org/abs/1905.08094"
    equation = (
        "cross-entropy + sum over exits of (1 - alpha) · cross-entropy(exit) + "
        "alpha · KL(softmax(deepest / T) || softmax(exit / T)) + beta · ||exit's - deepest embedding||^2"
    )
    knowledge = "response"
    teachers = (0, 0)

    @dataclass
    class Config:
        layers: list[float] = option(
            [0.25, 0.5, 0.75], "relative depths of the exits; 0 first stage, 1 last", min=0.0, max=1.0
        )
        student_layers: Optional[list[str]] = option(None, "dotted names of the layers with an exit, instead of depths")
        temperature: float = option(3.0, "T, softens both distributions", min=0.01)
        alpha: float = option(0.3, "weight of an exit's soft labels; its hard labels get 1 - alpha", min=0.0, max=1.0)
        beta: Optional[float] = option(
            None,
            "lambda, weight of an exit's hint, a squared distance summed over the embedding's entries; default: 0.03 / "
            "their number, so that it does not grow with the embedding",
            min=0.0,
        )

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        layers = list(cfg.student_layers or cfg.layers)
        if not layers:
            raise InputError("byot.layers is empty: give at least one exit, such as byot.layers=[0.5].")
        return Taps(student={"exits": layers, "last": 1.0, "deepest": "embedding"})

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        last, embedding = setup.student["last"], width(setup.student["deepest"])
        self.beta: float = BETA / embedding if cfg.beta is None else cfg.beta
        self.exits = nn.ModuleList(Exit(shape, last, embedding, setup.num_classes) for shape in setup.student["exits"])

    def _leave(self, student: Out) -> list[tuple[Tensor, Tensor]]:
        taps = [token_mean(feat, student.mask) for feat in student.taps["exits"]]
        return [leave(feat) for leave, feat in zip(self.exits, taps, strict=True)]

    def predictions(self, student: Out) -> dict[str, Tensor]:
        """Return each exit's logits, shallow to deep, and the mean of all classifiers', the deepest among them."""
        exits = [logits for logits, _ in self._leave(student)]
        ensemble = _total([student.logits, *exits]) / (len(exits) + 1)
        return {f"exit {number}": logits for number, logits in enumerate(exits, 1)} | {"ensemble": ensemble}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        student, deepest = batch.student, as_vector(batch.student.taps["deepest"])
        outs = self._leave(student)
        parts = [exit_parts(logits, feat, student.logits, deepest, self.cfg.temperature) for logits, feat in outs]
        labels = [batch.task_loss(logits) for logits, _ in outs]
        kls, hints = zip(*parts, strict=True)
        return {
            "labels": (1 - self.cfg.alpha) * _total(labels),
            "kl": self.cfg.alpha * _total(kls),
            "hint": self.beta * _total(hints),
        }


def _total(losses: Any) -> Tensor:
    total: Tensor = sum(losses[1:], losses[0])
    return total
