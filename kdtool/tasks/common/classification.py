"""Image classification: the hard-label loss and the metrics."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtool.losses import at_least_fp32


class ImageClassification:
    """One class an image.

    Args:
        num_classes: K.
        label_smoothing: share of the target spread over all classes, in [0, 1).
    """

    def __init__(self, num_classes: int, label_smoothing: float = 0.0):
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing

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
            losses = -(target_BK * F.log_softmax(logits, dim=1)).sum()
            return losses / weight_B1.gt(0).sum().clamp(min=1)
        losses = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum", label_smoothing=self.label_smoothing)
        return losses / labels.ge(0).sum().clamp(min=1)

    def metrics(self, logits: Tensor, labels: Tensor) -> dict[str, Any]:
        """Return top1, top5 (None with five classes or fewer), macro_recall and macro_f1, each in [0, 1].

        Macro means are over the classes present in the labels.

        Args:
            logits: (N, K).
            labels: (N,) int64.
        """
        from sklearn.metrics import f1_score, recall_score

        order = logits.topk(min(5, self.num_classes), dim=1).indices
        hits = order.eq(labels[:, None])
        truth, predicted = labels.numpy(), order[:, 0].numpy()
        present = torch.unique(labels).numpy()
        macro = {"labels": present, "average": "macro", "zero_division": 0.0}
        return {
            "top1": hits[:, 0].double().mean().item(),
            "top5": hits.any(1).double().mean().item() if self.num_classes > 5 else None,
            "macro_recall": float(recall_score(truth, predicted, **macro)),
            "macro_f1": float(f1_score(truth, predicted, **macro)),
        }
