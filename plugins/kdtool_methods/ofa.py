"""One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation. Hao et al., NeurIPS 2023.
https://arxiv.org/abs/2310.19444

Features of unlike architectures are not compared. Each stage of the student gets an exit, which learns the teacher's
logits with the target's share enhanced; so does the student's own classifier. The exits are the method's, none ships.
eps = 1, T = 1 and weights of 1 are those of the authors' code on CIFAR-100 (eps is tuned by pair; 1 to 1.5).

As in the authors' code an exit of maps is a chain of separable convolutions that halve the map down to the last
stage's, an exit of tokens a few transformer blocks, fewer the deeper it is. Unlike there, its width is that of the
student's last stage, not the larger one of both networks', so that of a teacher nothing but logits is read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtool import Batch, Method, Setup, Taps, option
from kdtool.errors import InputError
from kdtool.layers import as_map, as_vector, map_shape, width
from kdtool.losses import at_least_fp32, ensemble_logits
from kdtool.method import Shape
from kdtool_methods._tokens import real_tokens


def ofa_loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, eps: float, temperature: float = 1.0
) -> Tensor:
    """Return -sum over classes of ((p_teacher + 1_y)^eps - 1_y) · log p_student, mean over the batch.

    With eps = 1 it is the cross-entropy of soft labels; a larger eps enhances the target where the teacher is sure.

    Args:
        student_logits: (B, K).
        teacher_logits: (B, K).
        labels: (B,) integer class, -1 for samples without a label, for which 1_y is zero; or (B, K) of mixed samples,
            of which the largest share counts, as in the authors' code.
        eps: > 0, the paper's gamma.
        temperature: T > 0, of both distributions.
    """
    log_s_BK = F.log_softmax(at_least_fp32(student_logits) / temperature, dim=1)
    log_p_BK = F.log_softmax(at_least_fp32(teacher_logits) / temperature, dim=1)
    if labels.ndim == 2:
        labels = torch.where(labels.sum(1) > 0, labels.argmax(1), -1)
    target_BK = labels[:, None] == torch.arange(log_p_BK.shape[1], device=labels.device)
    # The others' power is taken by the logarithm: where eps < 1 that of a probability of 0 has no finite gradient.
    weight_BK = torch.where(target_BK, (log_p_BK.exp() + 1) ** eps - 1, (eps * log_p_BK).exp())
    return -(weight_BK * log_s_BK).sum(1).mean()


class Exit(nn.Module):
    """Maps a stage's feature to logits.

    Args:
        shape: of the tapped feature, without the batch.
        last: of the last stage's feature.
        blocks: how many transformer blocks, for tokens.
        num_classes: K.
    """

    def __init__(self, shape: Shape, last: Shape, blocks: int, num_classes: int):
        super().__init__()
        channels, out = width(shape), width(last)
        self.tokens = len(shape) == 2
        if self.tokens:
            self.blocks = nn.ModuleList(_transformer_block(channels) for _ in range(blocks))
            out = channels
        elif len(shape) == 3:
            self.convolutions = _convolutions(shape, last)
        else:
            out = channels
        self.classifier = nn.Linear(out, num_classes)

    def forward(self, feat: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return logits (B, K) of a feature; ``mask`` (B, N) tells real tokens from padding."""
        if self.tokens:
            real_BN, feat = real_tokens(feat, mask)
            for block in self.blocks:
                feat = block(feat, src_key_padding_mask=None if mask is None else ~mask.bool())
            _, feat = real_tokens(feat, mask)
            logits: Tensor = self.classifier(feat.sum(1) / real_BN.sum(1, keepdim=True).clamp_min(1))
            return logits
        if feat.ndim == 4:
            feat = self.convolutions(as_map(feat))
        logits = self.classifier(as_vector(feat))
        return logits


def _transformer_block(channels: int) -> nn.Module:
    heads = math.gcd(4, channels)
    return nn.TransformerEncoderLayer(
        channels, heads, 4 * channels, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )


def _convolutions(shape: Shape, last: Shape) -> nn.Module:
    (channels, *size), (out, *last_size) = map_shape(shape), map_shape(last)
    halvings = math.ceil(math.log2(max(1.0, *(own / other for own, other in zip(size, last_size, strict=True)))))
    if not halvings:
        return nn.Conv2d(channels, out, 1)
    steps: list[nn.Module] = []
    for step in range(halvings):
        wide = out if step == halvings - 1 else 2 * channels
        steps += [*_separable(channels, channels, stride=2), *_separable(channels, wide, stride=1)]
        channels = wide
    return nn.Sequential(*steps)


def _separable(c_in: int, c_out: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(c_in, c_in, 3, stride, padding=1, groups=c_in, bias=False),
        nn.Conv2d(c_in, c_out, 1, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(),
    ]


class OFA(Method):
    """Every stage of the student predicts, through an exit, the teacher's logits with an enhanced target."""

    api = 1
    paper = "Hao et al., One-for-All: Bridge the Gap Between Heterogeneous Architectures in KD, NeurIPS 2023"
    year = 2023
    url = "https://arxiv.org/abs/2310.19444"
    equation = (
        "cross-entropy + weight · l(student) + exit_weight · sum over exits of l(exit), "
        "l(p) = -sum over classes of ((p_teacher + 1_y)^eps - 1_y) · log p"
    )
    knowledge = "response"
    teachers = (1, None)

    @dataclass
    class Config:
        layers: list[float] = option(
            [0.0, 0.34, 0.67, 1.0], "relative depths of the exits; 0 first stage, 1 last", min=0.0, max=1.0
        )
        student_layers: Optional[list[str]] = option(None, "dotted names of the layers with an exit, instead of depths")
        eps: float = option(1.0, "exponent that enhances the target; tuned by pair, 1 to 1.5", min=0.01)
        temperature: float = option(1.0, "T, softens both distributions", min=0.01)
        weight: float = option(1.0, "weight of the student's own logits", min=0.0)
        exit_weight: float = option(1.0, "weight of the exits' sum", min=0.0)

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        layers = list(cfg.student_layers or cfg.layers)
        if not layers:
            raise InputError("ofa.layers is empty: give at least one exit, such as ofa.layers=[1.0].")
        return Taps(student={"exits": layers, "last": 1.0})

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        shapes, last = setup.student["exits"], setup.student["last"]
        self.exits = nn.ModuleList(
            Exit(shape, last, max(len(shapes) - number, 1), setup.num_classes) for number, shape in enumerate(shapes, 1)
        )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        cfg, student = self.cfg, batch.student
        teacher = ensemble_logits([out.logits for out in batch.teachers], temperature=cfg.temperature)
        exits = [leave(feat, student.mask) for leave, feat in zip(self.exits, student.taps["exits"], strict=True)]
        own, *theirs = (
            ofa_loss(logits, teacher, batch.labels, cfg.eps, cfg.temperature) for logits in (student.logits, *exits)
        )
        return {"own": cfg.weight * own, "exits": cfg.exit_weight * torch.stack(theirs).sum()}
