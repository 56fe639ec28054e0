"""Several classes a sample, each learnt on its own: the hard-label loss and the metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kdtool.events import Metric
from kdtool.losses import at_least_fp32
from kdtool.tasks.common.kept_rows import KeptRows

MAP = Metric("map", "mAP")

THRESHOLD = 0.5
"""Probability from which a class is taken to be there."""


class MultiLabel:
    """Sets of classes as labels; an ``Objective`` of the engine.

    Args:
        sets: (S, K), 0 or 1: the classes of each label.
        label_smoothing: share of each class's target that is spread over yes and no, in [0, 1).
    """

    targets = "multi"

    def __init__(self, sets: np.ndarray, label_smoothing: float = 0.0):
        self.sets = torch.from_numpy(np.asarray(sets, dtype=np.float32))
        self.label_count, self.num_classes = self.sets.shape
        self.label_smoothing = label_smoothing
        self.metric = MAP
        self.chance: float | None = None  # how many samples have a class, which differs by class

    def hard_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the binary cross-entropy, summed over classes, mean over the labelled samples; zero without any.

        Args:
            logits: (B, K).
            labels: (B,) int64 numbers of sets, -1 for none; or (B, S) for mixed samples, a row of zeros for none.
        """
        logits = at_least_fp32(logits)
        sets = self.sets.to(logits)
        if labels.ndim == 2:
            known_B, target_BK = labels.sum(1).gt(0), labels.to(logits) @ sets
        else:
            known_B, target_BK = labels.ge(0), sets[labels.clamp(min=0)]
        target_BK = (1 - self.label_smoothing) * target_BK + self.label_smoothing / 2
        losses_B = F.binary_cross_entropy_with_logits(logits, target_BK, reduction="none").sum(1)
        return (losses_B * known_B).sum() / known_B.sum().clamp(min=1)

    def meter(self) -> MultiLabelMeter:
        """Return a new meter of map, macro_f1, micro_f1 and exact."""
        return MultiLabelMeter(self.sets)


class MultiLabelMeter(KeptRows):
    """Keeps each row's probabilities: average precision is of their order over all samples."""

    def __init__(self, sets: Tensor):
        super().__init__()
        self.sets = sets

    def metrics(self) -> dict[str, Any]:
        """Return map, macro_f1, micro_f1 and exact, each in [0, 1]; see ``figures``."""
        _, labels, logits = (torch.cat(column) for column in zip(*self.parts, strict=True))
        known = labels >= 0
        return figures(logits[known], self.sets[labels[known]])


def figures(logits: Tensor, targets: Tensor) -> dict[str, Any]:
    """Return the metrics of several classes a sample.

    "map" is the mean over classes of average precision, "macro_f1" that of F1 at a probability of 0.5; both are over
    the classes that some sample has, and 0 where none has any. "micro_f1" counts all answers alike, and "exact" is the
    share of samples with no class too many or too few.

    Args:
        logits: (N, K).
        targets: (N, K), 0 or 1.
    """
    from sklearn.metrics import f1_score

    guessed = logits.sigmoid().ge(THRESHOLD).numpy().astype(int)
    wanted = targets.numpy().astype(int)
    there = [row for row in per_class(logits, targets) if row["ap"] is not None]

    def mean(key: str) -> float:
        return float(np.mean([row[key] for row in there])) if there else 0.0

    return {
        "map": mean("ap"),
        "macro_f1": mean("f1"),
        "micro_f1": float(f1_score(wanted.reshape(-1), guessed.reshape(-1), zero_division=0.0)),
        "exact": float((guessed == wanted).all(1).mean()),
    }


def per_class(logits: Tensor, targets: Tensor, names: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Return by class "class" (name or number), "support" (samples that have it), "ap" and "f1" (None without any)."""
    from sklearn.metrics import average_precision_score, f1_score

    wanted, score = targets.numpy().astype(int), logits.double().numpy()
    rows = []
    for k in range(wanted.shape[1]):
        count = int(wanted[:, k].sum())
        ap = float(average_precision_score(wanted[:, k], score[:, k])) if count else None
        f1 = float(f1_score(wanted[:, k], score[:, k] >= 0, zero_division=0.0)) if count else None
        rows.append({"class": names[k] if names is not None else str(k), "support": count, "ap": ap, "f1": f1})
    return rows


def columns_of(logits: Tensor, targets: Tensor, names: Sequence[str]) -> dict[str, list[Any]]:
    """Return each sample's classes, those that are predicted, all probabilities and all logits.

    "correct" says whether there is no class too many or too few.

    Args:
        logits: (N, K).
        targets: (N, K), 0 or 1.
        names: of the K classes.
    """
    guessed, wanted = logits.ge(0), targets.bool()

    def named(there: Tensor) -> list[list[str]]:
        return [[name for name, is_there in zip(names, row, strict=True) if is_there] for row in there.tolist()]

    return {
        "classes": named(wanted),
        "predicted_classes": named(guessed),
        "correct": guessed.eq(wanted).all(1).tolist(),
        "probabilities": logits.double().sigmoid().tolist(),
        "logits": logits.tolist(),
    }
