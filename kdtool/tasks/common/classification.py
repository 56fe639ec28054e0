"""One class a sample: the hard-label loss and the metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtool.engine.job import Scores
from kdtool.events import Metric
from kdtool.losses import at_least_fp32


class Classification:
    """One class a sample; an ``Objective`` of the engine.

    Args:
        num_classes: K.
        label_smoothing: share of the target spread over all classes, in [0, 1).
        metric: what epochs are selected by; default: top-1.
    """

    def __init__(self, num_classes: int, label_smoothing: float = 0.0, metric: Metric | None = None):
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.metric = metric or Metric()
        self.chance: float | None = 1 / num_classes
        self.class_weights: Tensor | None = None

    def weigh(self, labels: Tensor) -> None:
        """Let classes count alike in the hard-label loss, however many samples each has.

        Class c of K that has n_c of N samples gets the weight N / (K n_c) (King and Zeng, Political Analysis 9, 2001),
        whose mean over the samples is 1; a class without any gets 1.

        Args:
            labels: (N,) int64 of the training samples, -1 for none.
        """
        counts = torch.bincount(labels[labels >= 0], minlength=self.num_classes).double()
        known = counts > 0
        weights = counts.sum() / (known.sum() * counts.clamp(min=1))
        self.class_weights = torch.where(known, weights, 1.0)

    def hard_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy, mean over the labelled samples; zero where none is labelled.

        Args:
            logits: (B, K).
            labels: (B,) int64, -1 for none; or (B, K) for mixed samples, a row of zeros for none.
        """
        logits = at_least_fp32(logits)
        if labels.ndim == 2:
            # No smoothing of what has no label: the row's own weight is spread.
            weight_B1 = labels.sum(1, keepdim=True)
            smooth = self.label_smoothing
            target_BK = (1 - smooth) * labels + smooth * weight_B1 / self.num_classes
            if self.class_weights is not None:
                own_B1 = labels @ self.class_weights.to(labels)[:, None]  # a mix counts as its parts do
                target_BK = target_BK * own_B1 / weight_B1.clamp(min=1e-12)
            losses = -(target_BK * F.log_softmax(logits, dim=1)).sum()
            return losses / weight_B1.gt(0).sum().clamp(min=1)
        smooth = self.label_smoothing
        if self.class_weights is not None:
            each_B = F.cross_entropy(logits, labels, ignore_index=-1, reduction="none", label_smoothing=smooth)
            losses = (each_B * self.class_weights.to(logits)[labels.clamp(min=0)]).sum()
        else:
            losses = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum", label_smoothing=smooth)
        return losses / labels.ge(0).sum().clamp(min=1)

    def meter(self) -> ClassificationMeter:
        """Return a new meter of top1, top5, macro_recall and macro_f1."""
        return ClassificationMeter(self.num_classes)

    def metrics(self, logits: Tensor, labels: Tensor) -> dict[str, Any]:
        """Return the metrics of (N, K) logits and (N,) int64 labels that are held whole."""
        meter = self.meter()
        meter.add(logits, labels, torch.arange(len(labels)))
        return meter.metrics()


class ClassificationMeter:
    """Keeps what was predicted of each row, not its logits."""

    def __init__(self, num_classes: int):
        self.num_classes = num_classes
        self.rows: list[Tensor] = []

    def add(self, logits: Tensor, labels: Tensor, index: Tensor) -> None:
        """Take (R, K) logits, (R,) int64 labels and (R,) numbers of the rows."""
        order = logits.topk(min(5, self.num_classes), dim=1).indices
        among_five = order.eq(labels[:, None]).any(1)
        self.rows.append(torch.stack([index, labels, order[:, 0], among_five.long()], dim=1).cpu())

    def state(self) -> Tensor:
        """Return (R, 4) int64: number, label, predicted class, and whether the label is among the best five."""
        return torch.cat(self.rows) if self.rows else torch.zeros(0, 4, dtype=torch.int64)

    def merge(self, states: Sequence[Tensor]) -> None:
        """Replace what was added by what all processes added."""
        self.rows = list(states)

    def scores(self, key: str) -> Scores | None:
        """Return which rows were hit, for top1 and top5; None for other metrics."""
        index, labels, predicted, among_five = self.state().unbind(1)
        hit = {"top1": predicted.eq(labels), "top5": among_five}.get(key)
        return None if hit is None else Scores(index, hit.double())

    def metrics(self) -> dict[str, Any]:
        """Return top1, top5 (None with five classes or fewer), macro_recall and macro_f1, each in [0, 1].

        Macro means are over the classes present in the labels.
        """
        from sklearn.metrics import f1_score, recall_score

        _, labels, predicted, among_five = self.state().unbind(1)
        present = torch.unique(labels).numpy()
        macro = {"labels": present, "average": "macro", "zero_division": 0.0}
        return {
            "top1": predicted.eq(labels).double().mean().item(),
            "top5": among_five.double().mean().item() if self.num_classes > 5 else None,
            "macro_recall": float(recall_score(labels.numpy(), predicted.numpy(), **macro)),
            "macro_f1": float(f1_score(labels.numpy(), predicted.numpy(), **macro)),
        }


class LogitsMeter:
    """Keeps all logits, for what needs them whole: calibration, agreement, files of predictions."""

    def __init__(self) -> None:
        self.parts: list[tuple[Tensor, Tensor]] = []

    def add(self, logits: Tensor, labels: Tensor, index: Tensor) -> None:
        """Take (R, K) logits and the (R,) numbers of the rows."""
        self.parts.append((index.cpu(), logits.cpu()))

    def state(self) -> list[tuple[Tensor, Tensor]]:
        """Return what was added."""
        return self.parts

    def merge(self, states: Sequence[list[tuple[Tensor, Tensor]]]) -> None:
        """Replace what was added by what all processes added."""
        self.parts = [part for parts in states for part in parts]

    def metrics(self) -> dict[str, Any]:
        """Return "logits": (N, K), in the order of the rows' numbers."""
        index, logits = (torch.cat(column) for column in zip(*self.parts, strict=True))
        return {"logits": logits[index.argsort()]}
