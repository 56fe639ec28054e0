"""Knowledge Diffusion for Distillation. Huang et al., NeurIPS 2023. https://arxiv.org/abs/2305.15712

A student's feature is taken for a noisy one of the teacher's. A small diffusion model learns to predict the noise in
the teacher's features, compressed by an autoencoder, and denoises the student's before they are compared. How much
noise is added to the student's first, so that it is as noisy as the model expects, is learned for each sample.

The paper denoises logits the same way beside the last feature; this is the feature's part, and composes with methods
that compare logits (``kd+diffkd``). Noise and time steps follow from sample and epoch, so that a resumed run has the
same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtool import Batch, Method, Setup, Taps, option
from kdtool.layers import layer_pairs, resize_map, width
from kdtool.losses import at_least_fp32
from kdtool.method import Shape
from kdtool_methods._maps import PairedLayers, size_of, total
from kdtool_methods._masking import draws, normal_noise

TIMES = 1000
FIRST_BETA, LAST_BETA = 1e-4, 0.02


def alphas(times: int = TIMES) -> Tensor:
    """Return (times,) float64: the share of the signal's power that is left at each time, of a linear schedule."""
    return (1 - torch.linspace(FIRST_BETA, LAST_BETA, times, dtype=torch.float64)).cumprod(0)


def noised(feat: Tensor, noise: Tensor, alpha_B: Tensor) -> Tensor:
    """Return sqrt(alpha) · feat + sqrt(1 - alpha) · noise (Eq. 1).

    Args:
        feat: (B, ...).
        noise: the same shape, standard normal.
        alpha_B: (B,) in [0, 1].
    """
    feat = at_least_fp32(feat)
    alpha = alpha_B.to(feat.dtype).view(-1, *[1] * (feat.ndim - 1))
    return alpha.sqrt() * feat + (1 - alpha).sqrt() * noise


def ddim_step(feat: Tensor, noise: Tensor, alpha: Tensor, alpha_next: Tensor) -> Tensor:
    """Return the feature at a less noisy time, without new noise (Song et al., DDIM, ICLR 2021, Eq. 12).

    Args:
        feat: (B, ...), noisy.
        noise: what the model predicts of it.
        alpha, alpha_next: scalars in (0, 1], of this time and of the next.
    """
    clean = (feat - (1 - alpha).sqrt() * noise) / alpha.sqrt()
    return alpha_next.sqrt() * clean + (1 - alpha_next).sqrt() * noise


def denoised(feat: Tensor, predict: Callable[[Tensor, int], Tensor], alpha_T: Tensor, steps: int) -> Tensor:
    """Return what ``steps`` DDIM steps make of a feature, from the middle of the schedule to its end.

    Args:
        feat: (B, ...).
        predict: (feature, time) -> its noise.
        alpha_T: (T,), of ``alphas``.
        steps: at least 1, at most T/2. The authors': 5 of 10 that would span the schedule.
    """
    stride = len(alpha_T) // (2 * steps)
    times = [number * stride for number in range(steps)]
    for time in reversed(times):
        after = alpha_T[time - stride] if time else torch.ones_like(alpha_T[0])
        feat = ddim_step(feat, predict(feat, time), alpha_T[time], after)
    return feat


class Bottleneck(nn.Module):
    """Three convolutions around which the input is added; without biases, which the norms after them would take out.

    Args:
        channels: C.
        reduction: by which the middle is narrower.
    """

    def __init__(self, channels: int, reduction: int):
        super().__init__()
        middle = max(1, channels // reduction)
        self.block = nn.Sequential(
            nn.Conv2d(channels, middle, 1, bias=False), nn.BatchNorm2d(middle), nn.ReLU(),
            nn.Conv2d(middle, middle, 3, padding=1, bias=False), nn.BatchNorm2d(middle), nn.ReLU(),
            nn.Conv2d(middle, channels, 1, bias=False), nn.BatchNorm2d(channels),
        )  # fmt: skip

    def forward(self, feat_BCHW: Tensor) -> Tensor:
        out: Tensor = feat_BCHW + self.block(feat_BCHW)
        return out


class Diffusion(nn.Module):
    """One pair of layers: autoencoder of the teacher's, noise predictor, noise adapter and the student's projections.

    Args:
        student, teacher: shapes of the features, without the batch.
        latent: channels of the compressed feature; None: no autoencoder.
        steps: DDIM steps.
    """

    alpha_T: Tensor

    def __init__(self, student: Shape, teacher: Shape, latent: int | None, steps: int):
        super().__init__()
        self.size, self.steps = size_of(teacher), steps
        channels = latent or width(teacher)
        self.encode = (
            nn.Sequential(nn.Conv2d(width(teacher), channels, 1, bias=False), nn.BatchNorm2d(channels))
            if latent
            else None
        )
        self.decode = nn.Conv2d(channels, width(teacher), 1) if latent else None
        self.enter = nn.Conv2d(width(student), channels, 1)
        self.leave = nn.Conv2d(channels, channels, 1)
        self.times = nn.Embedding(TIMES, channels)
        self.predict = nn.Sequential(
            Bottleneck(channels, 4),
            Bottleneck(channels, 4),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.adapt = nn.Sequential(
            Bottleneck(channels, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 2)
        )
        self.register_buffer("alpha_T", alphas().float(), persistent=False)  # follows from the schedule

    def noise_of(self, feat_BCHW: Tensor, time_B: Tensor) -> Tensor:
        """Return the noise (B, C, H, W) that the model sees in a feature at (B,) int64 times."""
        noise: Tensor = self.predict(feat_BCHW + self.times(time_B)[:, :, None, None])
        return at_least_fp32(noise)

    def forward(self, student: Tensor, teacher: Tensor, index_B: Tensor, epoch: int, number: int) -> list[Tensor]:
        """Return the losses: of the denoised student's feature, of the noise, and of the autoencoder where there is.

        Args:
            student, teacher: maps.
            index_B, epoch: which samples and when; noise and times follow from them.
            number: of this pair.
        """
        losses = []
        if self.encode is not None and self.decode is not None:
            latent = self.encode(teacher)
            losses = [F.mse_loss(at_least_fp32(self.decode(latent)), teacher)]
            teacher = at_least_fp32(latent.detach())
        time_B = draws(index_B, epoch, 3 * number, 1)[:, 0] % TIMES
        noise = normal_noise(index_B, epoch, 3 * number + 1, teacher)
        predicted = self.noise_of(noised(teacher, noise, self.alpha_T[time_B]), time_B)
        entered = at_least_fp32(resize_map(self.enter(student), self.size))
        share_B111 = at_least_fp32(self.adapt(entered)).softmax(1)[:, :1, None, None]
        noisy = share_B111 * entered + (1 - share_B111) * normal_noise(index_B, epoch, 3 * number + 2, entered)
        clean = denoised(noisy, lambda feat, time: self.noise_of(feat, torch.full_like(time_B, time)), self.alpha_T,
                         self.steps)  # fmt: skip
        return [F.mse_loss(at_least_fp32(self.leave(clean)), teacher), F.mse_loss(predicted, noise), *losses]


class DiffKD(Method):
    """The student's feature, denoised by a diffusion model of the teacher's features, learns those."""

    api = 1
    paper = "Huang et al., Knowledge Diffusion for Distillation, NeurIPS 2023"
    year = 2023
    url = "https://arxiv.org/abs/2305.15712"
    equation = (
        "cross-entropy + weight · mean (proj(denoised student) - encode(teacher))^2 + diffusion_weight · mean (noise - "
        "predict(noised teacher))^2 + autoencoder_weight · mean (teacher - decode(encode(teacher)))^2"
    )
    knowledge = "feature"
    teachers = (1, None)

    @dataclass
    class Config:
        weight: float = option(1.0, "lambda 3, weight of the denoised student's distance", min=0.0)
        diffusion_weight: float = option(1.0, "lambda 1, weight of the noise predictor's loss", min=0.0)
        autoencoder_weight: float = option(1.0, "lambda 2, weight of the autoencoder's loss", min=0.0)
        steps: int = option(5, "DDIM steps that denoise the student's feature", min=1, max=TIMES // 2)
        autoencoder: bool = option(True, "compress the teacher's feature to a half of its channels")
        layers: list[float] = option(
            [1.0], "relative depths of the layers paired, on both sides; 0 first stage, 1 last", min=0.0, max=1.0
        )
        student_layers: Optional[list[str]] = option(None, "dotted names of the student's layers, instead of depths")
        teacher_layers: Optional[list[str]] = option(None, "dotted names of the teacher's layers, instead of depths")

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        return layer_pairs("diffkd", cfg.layers, cfg.student_layers, cfg.teacher_layers)

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        self.layers = PairedLayers.of(setup)
        self.diffusions = nn.ModuleList(
            Diffusion(ours, theirs, max(1, width(theirs) // 2) if cfg.autoencoder else None, cfg.steps)
            for ours, theirs in self.layers.shapes
        )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        cfg, pairs = self.cfg, self.layers.all_maps(batch)
        found = [
            diffusion(ours, theirs, batch.index, batch.epoch, number)
            for number, (diffusion, (ours, theirs)) in enumerate(zip(self.diffusions, pairs, strict=True))
        ]
        weights = {"denoised": cfg.weight, "noise": cfg.diffusion_weight, "autoencoder": cfg.autoencoder_weight}
        return {
            name: weight * total(list(losses))
            for (name, weight), losses in zip(weights.items(), zip(*found, strict=True), strict=False)
        }
