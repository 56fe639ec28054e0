"""DistiLLM: Towards Streamlined Distillation for Large Language Models. Ko et al., ICML 2024.
https://arxiv.org/abs/2402.03898

A KL whose second distribution has a little of the first mixed in: its gradient stays bounded where the second is near
zero. The authors' code leaves the first distribution's entropy out of the value; here it is in, so that equal
distributions give 0. alpha = 0.1 and the skewed reverse KL are the paper's choice.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kdtool import Batch, Method, Stage, option
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


class DistiLLM(Method):
    """A skewed KL, forward or reverse."""

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

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        cfg = self.cfg
        divergence = skew_reverse_kl if cfg.divergence == "reverse" else skew_kl
        teacher = ensemble_logits([out.logits for out in batch.teachers], temperature=cfg.temperature)
        return {"skewed": cfg.weight * divergence(batch.student.logits, teacher, cfg.alpha, cfg.temperature)}

    def stages(self) -> list[Stage]:
        return [Stage("distill", self.loss, task_weight=self.cfg.hard_weight)]
