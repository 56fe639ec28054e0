"""What predictions are measured by: each a pure function of logits (N, K) and labels (N,)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BINS = 15


def per_class(logits: Tensor, labels: Tensor, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Return for each class its name, support (true samples), precision, recall and F1.

    A ratio over nothing is None: the precision of a class never predicted, the recall of one that is absent.
    """
    from sklearn.metrics import precision_recall_fscore_support  # it takes most of a second to import

    columns = precision_recall_fscore_support(
        labels.numpy(), logits.argmax(1).numpy(), labels=range(len(class_names)), zero_division=math.nan
    )
    return [
        {
            "class": name,
            "support": int(support),
            "precision": _ratio(precision),
            "recall": _ratio(recall),
            "f1": _ratio(f1),
        }
        for name, precision, recall, f1, support in zip(class_names, *columns, strict=True)
    ]


def _ratio(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def confusion(logits: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return (K, K) int64 counts: rows are true classes, columns predicted ones."""
    pairs = labels * num_classes + logits.argmax(1)
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)


def calibration(logits: Tensor, labels: Tensor, bins: int = BINS) -> dict[str, Any]:
    """Return "ece", "nll", "brier", the mean "confidence", and the "bins" of a reliability diagram.

    ECE: sum over bins of (n_b / N) |accuracy_b - confidence_b|, bins of equal width over the highest softmax
    probability, each open at its lower edge (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017,
    equation 3). Bins without samples have None for both.
    """
    probability_NK = logits.double().softmax(1)
    confidence, predicted = probability_NK.max(1)
    hits = predicted.eq(labels).double()
    number = (confidence * bins).ceil().long().clamp(1, bins) - 1
    rows, ece = [], 0.0
    for each in range(bins):
        inside = number == each
        count = int(inside.sum())
        row: dict[str, Any] = {"lower": each / bins, "upper": (each + 1) / bins, "count": count}
        row["confidence"] = confidence[inside].mean().item() if count else None
        row["accuracy"] = hits[inside].mean().item() if count else None
        if count:
            ece += count / len(labels) * abs(row["accuracy"] - row["confidence"])
        rows.append(row)
    target_NK = F.one_hot(labels, logits.shape[1]).double()
    return {
        "ece": ece,
        "nll": F.cross_entropy(logits.double(), labels).item(),
        "brier": (probability_NK - target_NK).square().sum(1).mean().item(),
        "confidence": confidence.mean().item(),
        "bins": rows,
    }


def agreement(student: Tensor, teacher: Tensor) -> dict[str, float]:
    """Return the share of samples with the same top class, and the mean KL(teacher || student) in nats, at T = 1."""
    log_student, log_teacher = student.double().log_softmax(1), teacher.double().log_softmax(1)
    return {
        "agreement": student.argmax(1).eq(teacher.argmax(1)).double().mean().item(),
        "kl": F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True).item(),
    }


def matthews(logits: Tensor, labels: Tensor) -> float:
    """Return Matthews' correlation of predicted and true classes, in [-1, 1]; 0 is as good as guessing."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels.numpy(), logits.argmax(1).numpy()))
