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
    """Return KL(p || q) of (B, K) log probabilities, mean over the batch, with gradient by both."""
    return (log_p.exp() * (log_p - log_q)).sum(1).mean()


def mixed(log_p: Tensor, log_q: Tensor, share: float) -> Tensor:
    """Return log(share · p + (1 - share) · q) of (B, K) log probabilities; 0 <= share <= 1."""
    if share in (0.0, 1.0):
        return log_p if share else log_q
    return torch.logaddexp(log_p + math.log(share), log_q + math.log1p(-share))
