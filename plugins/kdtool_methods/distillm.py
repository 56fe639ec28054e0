"""DistiLLM: Towards Streamlined Distillation for Large Language Models. Ko et al., ICML 2024.
https://arxiv.org/abs/2402.03898

A KL whose second distribution has a little of the first mixed in: its gradient stays bounded where the second is near
zero. The authors' code leaves the first distribution's entropy out of the value; here it is in, so that equal
distributions give 0. alpha = 0.1 and the skewed reverse KL are the paper's choice.

``adaptive`` is its use of what the student writes (section 3.2, Algorithm 1). It harms while the student writes badly,
so its share of the batches begins at 0 and grows only where the loss on held-out samples has risen: the student has
taken from the given text what it can. And since writing is what costs time, answers are kept: new ones are written less
and less, in the end all are drawn from those that are kept. The kept ones are the newest ``replay``; until there are so
many all are new. Validation is once before the first step, as in the authors' code, and after each epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdtool import Batch, Method, Setup, Stage, option
from kdtool.errors import InputError
from kdtool.losses import ensemble_logits
from kdtool_methods._divergences import kl, log_probabilities, mixed


def skew_kl(student_logits: Tensor, teacher_logits: Tensor, alpha: float, temperature: float = 1.0) -> Tensor:
    """Return KL(t || alpha · t + (1 - alpha) · s), mean over the batch; Eq. 4.

    s and t are softmax(logits / T).

    Args:
        student_logits: (B, K).
        teacher_logits: (B, K).
        alpha: in [0, 1]; 0 is KL(t || s).
        temperature: T > 0.

    Raises:
        ValueError: alpha is outside of [0, 1].
    """
    log_s, log_t = log_probabilities(student_logits, temperature), log_probabilities(teacher_logits, temperature)
    return kl(log_t, mixed(log_t, log_s, alpha))


def skew_reverse_kl(student_logits: Tensor, teacher_logits: Tensor, alpha: float, temperature: float = 1.0) -> Tensor:
    """Return KL(s || (1 - alpha) · t + alpha · s), mean over the batch; Eq. 5, with the arguments of ``skew_kl``."""
    log_s, log_t = log_probabilities(student_logits, temperature), log_probabilities(teacher_logits, temperature)
    return kl(log_s, mixed(log_s, log_t, alpha))


def rises(loss: float, reference: float, tolerance: float) -> bool:
    """Tell whether the share of the student's own answers grows: Algorithm 1, of the adaptive scheduler.

    Args:
        loss: on held-out samples.
        reference: that when the share last grew, or at first.
        tolerance: epsilon >= 0: it has to be so much larger.
    """
    return loss >= reference + tolerance


class DistiLLM(Method):
    """A skewed KL, forward or reverse, on given text and, ever more where that no longer helps, the student's own."""

    api = 1
    paper = "Ko et al., DistiLLM: Towards Streamlined Distillation for Large Language Models, ICML 2024"
    year = 2024
    url = "https://arxiv.org/abs/2402.03898"
    equation = "hard_weight · cross-entropy + weight · KL(s || (1 - alpha) · t + alpha · s), or forward"
    knowledge = "response"
    teachers = (1, None)

    @dataclass
    class Config:
        divergence: str = option("reverse", "which of the two is skewed", choices=("reverse", "forward"))
        alpha: float = option(0.1, "share of the one distribution in the other", min=0.0, max=1.0)
        temperature: float = option(1.0, "T, softens both distributions", min=0.01)
        weight: float = option(1.0, "weight of the divergence", min=0.0)
        hard_weight: float = option(0.0, "weight of the hard labels", min=0.0)
        adaptive: bool = option(
            False, "let the share of the batches that the student writes grow as the validation loss rises, and use "
            "what it wrote again; of language models only", late=True,
        )  # fmt: skip
        on_policy: float = option(
            0.0, "share of the batches that the student writes itself, with adaptive at first; of language models only",
            min=0.0, max=1.0, late=True,
        )  # fmt: skip
        growth: float = option(0.1, "adaptive: by how much the share grows at a time", min=0.0, max=1.0, late=True)
        tolerance: float = option(
            0.1, "adaptive: by how much the validation loss, in nats a token, has to have risen", min=0.0, late=True
        )
        replay: int = option(
            1000, "adaptive: so many of the student's newest answers are kept, to be learnt from again; 0: none",
            min=0, late=True,
        )  # fmt: skip

    growths: Tensor
    reference: Tensor

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        if cfg.adaptive:
            self.register_buffer("growths", torch.zeros((), dtype=torch.int64))
            self.register_buffer("reference", torch.tensor(torch.inf))  # infinite: nothing was validated yet

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        cfg = self.cfg
        divergence = skew_reverse_kl if cfg.divergence == "reverse" else skew_kl
        teacher = ensemble_logits([out.logits for out in batch.teachers], temperature=cfg.temperature)
        return {"skewed": cfg.weight * divergence(batch.student.logits, teacher, cfg.alpha, cfg.temperature)}

    def share(self) -> float:
        """Return the share of the batches that the student writes."""
        cfg = self.cfg
        return float(min(1.0, cfg.on_policy + cfg.growth * int(self.growths)))

    @torch.no_grad()
    def after_validation(self, metrics: Mapping[str, Any]) -> None:
        if not self.cfg.adaptive:
            return
        if "nll" not in metrics:
            raise InputError("distillm.adaptive=true goes by the loss of held-out tokens, which this task does not "
                             "measure: leave it out.")  # fmt: skip
        first = bool(torch.isinf(self.reference))
        loss = float(self.reference.new_tensor(metrics["nll"]))  # as precisely as the reference is kept
        if first or rises(loss, float(self.reference), self.cfg.tolerance):
            self.reference.fill_(loss)
            self.growths += not first

    def stages(self) -> list[Stage]:
        cfg = self.cfg
        if not cfg.adaptive:
            return [Stage("distill", self.loss, task_weight=cfg.hard_weight, on_policy=cfg.on_policy)]
        return [Stage("distill", self.loss, task_weight=cfg.hard_weight, on_policy=self.share, replay=cfg.replay)]
