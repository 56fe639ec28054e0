"""Divergences of two networks' class probabilities, and mixtures of them, in log space and at least fp32."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtool.losses import at_least_fp32


def log_probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return log softmax(logits / T) of (B, K) logits."""
    return F.log_softmax(at_least_fp32(logits) / temperature, dim=1)


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return KL(p || q) of (B, K) log probabilities, mean over the batch, with gradient by both.

    A class of which p is 0 adds nothing, whatever q is of it; one of which q alone is 0 makes it infinite.
    """
    return kl_of_rows(log_p, log_q).mean()


def kl_of_rows(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return the (B,) KL(p || q) of the rows, with the arguments of ``kl``."""
    p = log_p.exp()
    # Where p is 0, the product may be 0 · inf; its limit is 0, and so is the gradient's.
    return (p * torch.where(p > 0, log_p - log_q, 0.0)).sum(1)


def mixed(log_p: Tensor, log_q: Tensor, share: float) -> Tensor:
    """Return log(share · p + (1 - share) · q) of (B, K) log probabilities.

    Raises:
        ValueError: share is outside of [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"a share of {share} is not in [0, 1]")
    if share in (0.0, 1.0):
        return log_p if share else log_q
    never = log_p.isneginf() & log_q.isneginf()  # of which logaddexp has no gradient
    first, second = (log.masked_fill(never, 0.0) for log in (log_p, log_q))
    return torch.logaddexp(first + math.log(share), second + math.log1p(-share)).masked_fill(never, -math.inf)
