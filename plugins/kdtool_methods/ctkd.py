"""Curriculum Temperature for Knowledge Distillation. Li et al., AAAI 2023. https://arxiv.org/abs/2211.16231

The temperature is learned against the student: its gradient is reversed, so that it makes the divergence larger while
the student makes it smaller. The reversal starts at nothing and grows along a half cosine. T = 1 + 20 · sigmoid(...),
a curriculum of 10 of 240 epochs and the weights 0.9 and 0.1 are those of the CIFAR-100 experiments.

The paper's instance-wise form predicts T from both networks' logits with a two-layer perceptron; the authors released
the global form alone. Here the perceptron sees the logits as constants, so that the student is not pushed to make
itself harder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtool import Batch, Method, Setup, Stage, option
from kdtool.errors import InputError
from kdtool.losses import at_least_fp32, within_one
from kdtool_methods.dkd import decoupled_loss

PAPER_EPOCHS, PAPER_LOOPS = 240, 10  # of the CIFAR-100 experiments
HIDDEN = 64
"""Width of the instance-wise form's perceptron; the paper gives none."""


def tempered_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: Tensor) -> Tensor:
    """Return T^2 · KL(softmax(teacher / T) || softmax(student / T)), mean over the batch, with a gradient of T.

    Args:
        student_logits: (B, K).
        teacher_logits: (B, K).
        temperature: T > 0, of one number or (B, 1).
    """
    log_s_BK = F.log_softmax(at_least_fp32(student_logits) / temperature, dim=1)
    log_t_BK = F.log_softmax(at_least_fp32(teacher_logits) / temperature, dim=1)
    kl_B1 = F.kl_div(log_s_BK, log_t_BK, reduction="none", log_target=True).sum(1, keepdim=True)
    return (temperature**2 * kl_B1).mean()


def reversed_gradient(x: Tensor, strength: float) -> Tensor:
    """Return x itself, whose gradient comes back multiplied by -strength."""
    return x.detach() - strength * (x - x.detach())


def curriculum(share: float) -> float:
    """Return the strength of the reversal, from 0 to 1 along a half cosine, when ``share`` of the curriculum is done.

    It stays 1 after the curriculum, where the share exceeds 1.
    """
    angle: Any = math.pi * within_one(share)
    cosine: Any = torch.cos(angle) if isinstance(angle, Tensor) else math.cos(angle)  # compiled, it is a tensor
    found: float = 0.5 * (1 - cosine)
    return found


class Temperature(nn.Module):
    """T = start + span · sigmoid(prediction), the prediction one learned number, or a perceptron's of two logits.

    Args:
        num_classes: K.
        start, span: T lies between start and start + span.
        instance: one T a sample.
    """

    def __init__(self, num_classes: int, start: float, span: float, instance: bool):
        super().__init__()
        self.start, self.span, self.instance = start, span, instance
        if instance:
            self.predict = nn.Sequential(nn.Linear(2 * num_classes, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))
        else:
            self.prediction = nn.Parameter(torch.ones(1))

    def forward(self, student_BK: Tensor, teacher_BK: Tensor, strength: float) -> Tensor:
        """Return T, (1,) or (B, 1), in at least fp32, its gradient reversed with this strength."""
        if self.instance:
            prediction = self.predict(torch.cat([student_BK, teacher_BK], dim=1).detach())
        else:
            prediction = self.prediction
        prediction = reversed_gradient(at_least_fp32(prediction), strength)
        return self.start + self.span * torch.sigmoid(prediction)


class CTKD(Method):
    """KD, or DKD, with a temperature that learns to make it hard, more so as training goes on."""

    api = 1
    paper = "Li et al., Curriculum Temperature for Knowledge Distillation, AAAI 2023"
    year = 2023
    url = "https://arxiv.org/abs/2211.16231"
    equation = (
        "student: minimise, temperature: maximise, with strength 0 to 1, "
        "hard_weight · cross-entropy + weight · T^2 · KL(softmax(teacher / T) || softmax(student / T))"
    )
    knowledge = "response"
    teachers = (1, None)

    @dataclass
    class Config:
        form: str = option("global", "one temperature for all, or one a sample", choices=("global", "instance"))
        response: str = option("kd", "the loss whose temperature is learned; dkd: global form", choices=("kd", "dkd"))
        start: float = option(1.0, "least temperature", min=0.01)
        span: float = option(20.0, "the temperature rises at most this far above the least one", min=0.0)
        epochs: Optional[int] = option(
            None, "length of the curriculum; default: the paper's 10 of 240 epochs, stretched to the run", min=1
        )
        weight: Optional[float] = option(None, "weight of the soft term; default: 0.9, with dkd 1", min=0.0)
        hard_weight: Optional[float] = option(None, "weight of the hard labels; default: 0.1, with dkd 1", min=0.0)
        alpha: float = option(1.0, "dkd's weight of the target-class part", min=0.0)
        beta: float = option(8.0, "dkd's weight of the other classes' part", min=0.0)

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        if cfg.form == "instance" and cfg.response == "dkd":
            raise InputError(
                "ctkd.form=instance has no form with ctkd.response=dkd: choose ctkd.form=global or ctkd.response=kd."
            )
        default = (0.9, 0.1) if cfg.response == "kd" else (1.0, 1.0)
        self.weight: float = default[0] if cfg.weight is None else cfg.weight
        self.hard_weight: float = default[1] if cfg.hard_weight is None else cfg.hard_weight
        self.temperature = Temperature(setup.num_classes, cfg.start, cfg.span, cfg.form == "instance")

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        student, strength = batch.student.logits, self.strength(batch)
        # Each teacher has its own divergence: T would otherwise have to stand inside the mean of their probabilities.
        losses = [
            self._soft(batch, out.logits, self.temperature(student, out.logits, strength)) for out in batch.teachers
        ]
        return {"soft": self.weight * torch.stack(losses).mean()}

    def _soft(self, batch: Batch, teacher: Tensor, temperature: Tensor) -> Tensor:
        student = at_least_fp32(batch.student.logits)
        if self.cfg.response == "kd":
            return tempered_kl(student, teacher, temperature)
        if batch.labels.ndim == 2:
            raise InputError(
                "ctkd.response=dkd needs one class a sample: switch mixing off, or choose ctkd.response=kd."
            )
        alpha, beta, teacher = self.cfg.alpha, self.cfg.beta, at_least_fp32(teacher)
        loss = decoupled_loss(student / temperature, teacher / temperature, batch.labels, alpha, beta, 1.0)
        return (temperature**2 * loss).mean()

    def strength(self, batch: Batch) -> float:
        """Return how strongly the temperature's gradient is reversed now, in (0, 1]."""
        if self.cfg.epochs is None:
            return curriculum((PAPER_EPOCHS * batch.progress + 1) / PAPER_LOOPS)
        return curriculum((batch.epoch + 1) / self.cfg.epochs)

    def stages(self) -> list[Stage]:
        return [Stage("distill", self.loss, task_weight=self.hard_weight)]
