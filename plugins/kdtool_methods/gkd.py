"""On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes. Agarwal et al., ICLR 2024.
https://arxiv.org/abs/2306.13649

A divergence between the forward KL (beta = 0), which covers all that the teacher may say, and the reverse one
(beta = 1), which keeps to what it says mostly. There is no factor T^2: the paper has none. The paper's mean over tokens
is that over rows here.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kdtool import Batch, Method, Stage, option
from kdtool.losses import ensemble_logits
from kdtool_methods._divergences import kl, log_probabilities, mixed


def generalized_jsd(student_logits: Tensor, teacher_logits: Tensor, beta: float, temperature: float = 1.0) -> Tensor:
    """Return beta · KL(t || m) + (1 - beta) · KL(s || m) with m = (1 - beta) · s + beta · t, mean over the batch.

    s and t are softmax(logits / T). Section 2 and Eq. 1; at its ends it is a KL itself, as the paper takes it: beta = 0
    is KL(t || s), beta = 1 is KL(s || t).

    Args:
        student_logits: (B, K).
        teacher_logits: (B, K).
        beta: in [0, 1].
        temperature: T > 0.

    Raises:
        ValueError: beta is outside of [0, 1].
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"beta={beta} is not in [0, 1]")
    log_s, log_t = log_probabilities(student_logits, temperature), log_probabilities(teacher_logits, temperature)
    if beta == 0:
        return kl(log_t, log_s)
    if beta == 1:
        return kl(log_s, log_t)
    log_m = mixed(log_t, log_s, beta)
    return beta * kl(log_t, log_m) + (1 - beta) * kl(log_s, log_m)


class GKD(Method):
    """The generalised Jensen-Shannon divergence from the teacher, on given text or the student's own."""

    api = 1
    paper = "Agarwal et al., On-Policy Distillation of Language Models, ICLR 2024"
    year = 2024
    url = "https://arxiv.org/abs/2306.13649"
    equation = (
        "hard_weight · cross-entropy + weight · (beta · KL(t || m) + (1 - beta) · KL(s || m)), "
        "m = (1 - beta) · s + beta · t"
    )
    knowledge = "response"
    teachers = (1, None)

    @dataclass
    class Config:
        beta: float = option(0.5, "0: forward KL, 1: reverse KL, between: Jensen-Shannon", min=0.0, max=1.0)
        temperature: float = option(1.0, "T, softens both distributions", min=0.01)
        weight: float = option(1.0, "weight of the divergence", min=0.0)
        hard_weight: float = option(0.0, "weight of the hard labels", min=0.0)
        on_policy: float = option(
            0.0, "lambda: share of the batches that the student writes itself; of language models only",
            min=0.0, max=1.0, late=True,
        )  # fmt: skip

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        cfg = self.cfg
        teacher = ensemble_logits([out.logits for out in batch.teachers], temperature=cfg.temperature)
        return {"jsd": cfg.weight * generalized_jsd(batch.student.logits, teacher, cfg.beta, cfg.temperature)}

    def stages(self) -> list[Stage]:
        return [Stage("distill", self.loss, task_weight=self.cfg.hard_weight, on_policy=self.cfg.on_policy)]
