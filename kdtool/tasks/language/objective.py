"""The next token: cross-entropy, and the metrics of a split, without its logits ever being held."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtool.engine.job import Scores
from kdtool.errors import InputError
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

    def weigh(self, labels: Tensor) -> None:
        """Refuse: tokens are no classes of samples.

        Raises:
            InputError: always.
        """
        raise InputError("train.class_weights: language models have no classes of samples. Valid: none.")

    def meter(self) -> Any:
        """Return a new meter of perplexity, nll, top1 and tokens."""
        return TokenMeter()


class TokenMeter:
    """Sums what each row adds: its loss, and whether its token was the likeliest."""

    def __init__(self) -> None:
        self.sums = torch.zeros(3, dtype=torch.float64)
        self.rows: list[Tensor] = []

    def add(self, logits: Tensor, labels: Tensor, index: Tensor) -> None:
        """Take (R, V) logits, (R,) int64 labels, -1 for none, and (R,) numbers of the rows."""
        nll_R = F.cross_entropy(at_least_fp32(logits), labels, ignore_index=-1, reduction="none")
        known, hit = labels >= 0, logits.argmax(1) == labels
        # Widened on the CPU: not every device has float64.
        nll_R, hit, known, index = nll_R.cpu().double(), hit.cpu().double(), known.cpu(), index.cpu()
        self.sums += torch.stack([nll_R.sum(), hit.sum(), known.double().sum()])
        self.rows.append(torch.stack([index.double(), nll_R, hit], dim=1)[known])

    def state(self) -> tuple[Tensor, Tensor]:
        """Return (3,) float64: the loss, hits, and rows with a label, each summed; and (R, 3): number, loss and hit."""
        return self.sums, torch.cat(self.rows) if self.rows else torch.zeros(0, 3, dtype=torch.float64)

    def merge(self, states: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Replace what was added by what all processes added."""
        self.sums = torch.stack([sums for sums, _ in states]).sum(0)
        self.rows = [rows for _, rows in states]

    def scores(self, key: str) -> Scores | None:
        """Return each token's loss, or whether it was the likeliest; None for other metrics."""
        index, nll, hit = self.state()[1].unbind(1)
        if key == "top1":
            return Scores(index.long(), hit)
        figure = {"perplexity": "exp", "nll": "mean"}.get(key)
        return None if figure is None else Scores(index.long(), nll, figure)

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
