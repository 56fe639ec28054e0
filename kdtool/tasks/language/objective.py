"""The next token: cross-entropy, and the metrics of a split, without its logits ever being held."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtool.events import Metric
from kdtool.losses import at_least_fp32
from kdtool.tasks.common.classification import Classification

MOST_NATS = 700.0
"""A perplexity of more would be no number."""


class NextToken(Classification):
    """One of V tokens a row, chosen by perplexity.

    Args:
        num_classes: V.
        label_smoothing: as for any classification.
        metric: what epochs are selected by.
    """

    def __init__(self, num_classes: int, label_smoothing: float, metric: Metric):
        super().__init__(num_classes, label_smoothing, metric)
        self.chance = float(num_classes)

    def meter(self) -> Any:
        """Return a new meter of perplexity, nll, top1 and tokens."""
        return TokenMeter()


class TokenMeter:
    """Sums what each row adds: its loss, and whether its token was the likeliest."""

    def __init__(self) -> None:
        self.sums = torch.zeros(3, dtype=torch.float64)

    def add(self, logits: Tensor, labels: Tensor, index: Tensor) -> None:
        """Take (R, V) logits and (R,) int64 labels, -1 for none."""
        nll_R = F.cross_entropy(at_least_fp32(logits), labels, ignore_index=-1, reduction="none")
        known, hit = labels >= 0, logits.argmax(1) == labels
        added = torch.stack([nll_R, hit.to(nll_R.dtype), known.to(nll_R.dtype)]).cpu().double()
        self.sums += torch.stack([row.sum() for row in added])

    def state(self) -> Tensor:
        """Return (3,) float64: the loss, hits, and rows with a label, each summed."""
        return self.sums

    def merge(self, states: Sequence[Tensor]) -> None:
        """Replace what was added by what all processes added."""
        self.sums = torch.stack(list(states)).sum(0)

    def metrics(self) -> dict[str, Any]:
        """Return perplexity, nll (nats a token), top1 (share of tokens that were the likeliest) and tokens."""
        nll, hits, count = self.sums.tolist()
        mean = nll / max(count, 1.0)
        return {
            "perplexity": math.exp(min(mean, MOST_NATS)),
            "nll": mean,
            "top1": hits / max(count, 1.0),
            "tokens": int(count),
        }
