"""MiniLLM: Knowledge Distillation of Large Language Models. Gu et al., ICLR 2024. https://arxiv.org/abs/2306.08543

The reverse KL makes the student seek what the teacher says mostly, instead of spreading over all that it may say. Of
whole answers it is an expectation over what the student writes, whose gradient (Eq. 2) has two parts (Eq. 3, the
"single-step decomposition"): that of the next token, which is this KL over all of the vocabulary, and a policy gradient
of all that follows it. ``reverse_kl`` is the first alone, on given text. ``policy_gradient`` is both, with the paper's
three means against a large variance and against hacking the reward: answers are drawn from the student mixed with the
teacher (Eq. 4), rows are weighted by how much likelier the student alone were to draw them (Eq. 5), and a return is the
mean of what follows, not the sum, which would favour short answers (Eq. 6). Eq. 7 is all of it.

Each answer is used for one step, where the authors take several by PPO's clipped objective; so the clipping bounds the
importance weights alone. Their code has further means that the paper does not name: it discounts by 0.95
(``discount``), doubles rewards and clips them (``reward_clip``), counts a token's own reward in its return,
standardises returns over the batch and leaves weights out of the single step; those without a name in brackets are not
here. The paper's loss on the pre-training corpus is that of the hard labels (``hard_weight``) on given text: a share of
the batches (``on_policy`` below 1), or plain texts among the samples (``data.on_policy_texts=given``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdtool import Batch, Method, Setup, Stage, option
from kdtool.errors import InputError
from kdtool.losses import ensemble_logits
from kdtool.method import Drawn
from kdtool_methods._divergences import kl, kl_of_rows, log_probabilities


def reverse_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(softmax(student / T) || softmax(teacher / T)), mean over the batch; Eq. 1 for one token.

    Args:
        student_logits: (B, K).
        teacher_logits: (B, K).
        temperature: T > 0.
    """
    return kl(log_probabilities(student_logits, temperature), log_probabilities(teacher_logits, temperature))


def returns(rewards: Tensor, lengths: Sequence[int], length_norm: bool = True, discount: float = 1.0) -> Tensor:
    """Return R_{t+1} of each row: the sum of the rewards that follow it in its answer (Eq. 3), or their mean (Eq. 6).

    The mean is over the T - t rewards that follow row t of T, as many as the sum has; 0 where none does.

    Args:
        rewards: (R,) r_t = log(p(y_t) / q(y_t)) of the teacher p and the student q, answer after answer.
        lengths: rows of each answer; they add up to R.
        length_norm: the mean.
        discount: in [0, 1]: a reward counts this much less for each row in between; the paper has 1.

    Returns:
        (R,), without gradient.
    """
    rewards, found = rewards.detach(), []
    for each in rewards.split(list(lengths)):
        after_TT = torch.ones(len(each), len(each), dtype=each.dtype, device=each.device).triu(1)
        place_T = torch.arange(len(each), device=each.device)
        weight_TT = after_TT
        if discount < 1:
            between_TT = (place_T[None, :] - place_T[:, None] - 1).clamp(min=0)
            weight_TT = after_TT * torch.pow(
                torch.as_tensor(discount, dtype=each.dtype, device=each.device), between_TT
            )
        total_T = weight_TT @ each
        found.append(total_T / after_TT.sum(1).clamp(min=1) if length_norm else total_T)
    return torch.cat(found)


def importance_weights(student: Tensor, drawn: Tensor) -> Tensor:
    """Return w_t = q(y_t) / p~(y_t): Eq. 5 as the paper approximates it, by the row alone.

    Args:
        student: (R,) log q(y_t).
        drawn: (R,) log p~(y_t), of what y_t was drawn from; Eq. 4: p~ = alpha · p + (1 - alpha) · q.

    Returns:
        (R,), without gradient; at most 1 / (1 - alpha).
    """
    return (student - drawn).detach().exp()


def single_step(student_logits: Tensor, teacher_logits: Tensor, weights: Tensor) -> Tensor:
    """Return w_t · KL(q_t || p_t), mean over the rows: the first part of Eq. 7, exact over the vocabulary.

    Args:
        student_logits: (R, K) of q.
        teacher_logits: (R, K) of p.
        weights: (R,) w_t.
    """
    return (weights * kl_of_rows(log_probabilities(student_logits), log_probabilities(teacher_logits))).mean()


def long_part(student_logits: Tensor, classes: Tensor, credit: Tensor, weights: Tensor, clip: float = 0.0) -> Tensor:
    """Return a scalar whose gradient is -w_t · R_{t+1} · grad log q(y_t), mean over the rows: the second part of Eq. 7.

    Its value is the mean of -w_t · R_{t+1}. With clipping it is that of PPO (Schulman et al., 2017, Eq. 7), the lesser
    of w_t · R and of w_t, clipped, · R: what is too likely or unlikely to be drawn learns no more of it.

    Args:
        student_logits: (R, K) of q.
        classes: (R,) int64 y_t.
        credit: (R,) R_{t+1}.
        weights: (R,) w_t.
        clip: epsilon: w_t counts within [1 - epsilon, 1 + epsilon]; 0: as it is.
    """
    log_q = log_probabilities(student_logits).gather(1, classes[:, None]).squeeze(1)
    ratio = weights * (log_q - log_q.detach()).exp()
    gained = ratio * credit
    if clip:
        gained = torch.minimum(gained, ratio.clamp(1 - clip, 1 + clip) * credit)
    return -gained.mean()


class MiniLLM(Method):
    """The reverse KL: of each row of given text, or of whole answers, by the paper's policy gradient."""

    api = 1
    paper = "Gu et al., MiniLLM: Knowledge Distillation of Large Language Models, ICLR 2024"
    year = 2024
    url = "https://arxiv.org/abs/2306.08543"
    equation = (
        "hard_weight · cross-entropy + weight · KL(q || p), q: softmax(student / T), p: softmax(teacher / T); "
        "policy_gradient: weight · w_t · (KL(q_t || p_t) - R_{t+1} · log q(y_t)), R: mean of log(p / q) of what "
        "follows, w_t = q(y_t) / (alpha · p + (1 - alpha) · q)(y_t)"
    )
    knowledge = "response"
    teachers = (1, None)

    @dataclass
    class Config:
        objective: str = option(
            "reverse_kl", "reverse_kl: of each row; policy_gradient: of whole answers that the student writes, of "
            "language models only", choices=("reverse_kl", "policy_gradient"), late=True,
        )  # fmt: skip
        temperature: float = option(1.0, "T, softens both distributions; policy_gradient has 1", min=0.01)
        weight: float = option(1.0, "weight of the reverse KL", min=0.0)
        hard_weight: float = option(
            0.0, "weight of the hard labels; beside policy_gradient the paper's loss on pre-training text", min=0.0
        )
        on_policy: float = option(
            1.0, "policy_gradient: share of the batches that the student writes; given ones teach by their rows alone",
            min=0.0, max=1.0, late=True,
        )  # fmt: skip
        teacher_mixed_alpha: float = option(
            0.2, "policy_gradient: share of the teacher in what answers are drawn from", min=0.0, max=0.99, late=True
        )
        length_norm: bool = option(
            True, "policy_gradient: a return is the mean of what follows, not the sum", late=True
        )
        discount: float = option(
            1.0, "policy_gradient: how much a reward counts from one token to the next; the authors' code has 0.95",
            min=0.0, max=1.0, late=True,
        )  # fmt: skip
        clip: float = option(
            0.2, "policy_gradient: importance weights count within 1 - clip and 1 + clip, as PPO clips; 0: as they are",
            min=0.0, max=0.99, late=True,
        )  # fmt: skip
        reward_clip: float = option(
            100.0, "policy_gradient: a token's reward, log(p / q), is at most this far from 0", min=0.01, late=True
        )

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        if cfg.objective == "policy_gradient" and cfg.temperature != 1:
            raise InputError(
                f"minillm.temperature={cfg.temperature:g}: minillm.objective=policy_gradient compares answers as the "
                "networks would give them; leave it at 1."
            )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        cfg, student = self.cfg, batch.student.logits
        teacher = ensemble_logits([out.logits for out in batch.teachers], temperature=cfg.temperature)
        if cfg.objective == "reverse_kl":
            return {"reverse": cfg.weight * reverse_kl(student, teacher, cfg.temperature)}
        if not batch.drawn:
            single = reverse_kl(student, teacher)
            return {"single": cfg.weight * single, "long": 0.0 * single}
        weights, classes = batch.drawn["weight"], batch.drawn["class"].clamp(min=0)
        long = long_part(student, classes, batch.drawn["return"], weights, cfg.clip)
        return {"single": cfg.weight * single_step(student, teacher, weights), "long": cfg.weight * long}

    def credit(self, drawn: Drawn) -> dict[str, Tensor]:
        """Return each row's "return" R_{t+1} and "weight" w_t, which is 0 where nothing was drawn."""
        cfg, teachers = self.cfg, torch.stack(list(drawn.teachers))
        teacher = torch.logsumexp(teachers, dim=0) - math.log(len(teachers))
        rewards = (teacher - drawn.student).clamp(-cfg.reward_clip, cfg.reward_clip)
        weights = importance_weights(drawn.student, drawn.drawn).masked_fill(drawn.classes < 0, 0.0)
        return {"return": returns(rewards, drawn.lengths, cfg.length_norm, cfg.discount), "weight": weights}

    def stages(self) -> list[Stage]:
        cfg = self.cfg
        if cfg.objective == "reverse_kl":
            return [Stage("distill", self.loss, task_weight=cfg.hard_weight)]
        return [
            Stage(
                "distill", self.loss, task_weight=cfg.hard_weight, on_policy=cfg.on_policy,
                teacher_mix=cfg.teacher_mixed_alpha, credit=self.credit,
            )
        ]  # fmt: skip
