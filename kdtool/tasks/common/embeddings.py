"""Networks that give embeddings instead of classes: nothing is learnt from labels, and these only measure, if any.

Three figures, of a split's own samples alone:

- ``knn``: each sample's class from its nearest others, by cosine, weighted by exp(cos / 0.07). Wu et al.,
  "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018 (there from a training set; here
  each sample is left out in turn).
- ``probe``: accuracy of a linear classifier on frozen embeddings, by ridge regression on one-hot classes, five folds.
- ``rankme``: the effective rank exp(entropy of the normalised singular values), which needs no labels. Garrido et al.,
  "RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised Representations by Their Rank", ICML 2023.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtool.events import Metric
from kdtool.losses import at_least_fp32
from kdtool.tasks.common.kept_rows import KeptRows

KNN = Metric("knn", "k-NN")
RANK = Metric("rankme", "effective rank", percent=False)

NEIGHBOURS, TEMPERATURE = 20, 0.07
FOLDS, RIDGE = 5, 1e-3
CHUNK = 1024
"""Rows whose neighbours are looked for at once."""


def knn_accuracy(embedding_ND: Tensor, labels: Tensor) -> float:
    """Return the share of samples whose class their nearest others give.

    Args:
        embedding_ND: (N, D), N of 2 or more.
        labels: (N,) int64 classes.
    """
    rows = F.normalize(embedding_ND.double(), dim=1)
    count, classes, right = len(rows), int(labels.max()) + 1, 0
    for start in range(0, count, CHUNK):
        cosine = rows[start : start + CHUNK] @ rows.T
        at = torch.arange(start, start + len(cosine))
        cosine[at - start, at] = -torch.inf
        nearest, which = cosine.topk(min(NEIGHBOURS, count - 1), dim=1)
        votes = torch.zeros(len(cosine), classes, dtype=torch.float64)
        votes.scatter_add_(1, labels[which], (nearest / TEMPERATURE).exp())
        right += int(votes.argmax(1).eq(labels[at]).sum())
    return right / count


def probe_accuracy(embedding_ND: Tensor, labels: Tensor) -> float:
    """Return the accuracy of linear classifiers, each on the fold that it was not fitted on.

    The i-th sample is of fold i mod 5. Embeddings are standardised by those that are fitted on; the ridge is 0.001 of
    their number.

    Args:
        embedding_ND: (N, D), N of 2 or more.
        labels: (N,) int64 classes.
    """
    rows, right = embedding_ND.double(), 0
    targets = F.one_hot(labels).double()
    fold = torch.arange(len(rows)) % FOLDS
    for each in range(min(FOLDS, len(rows))):
        fitted, held = rows[fold != each], rows[fold == each]
        mean, std = fitted.mean(0), fitted.std(0, correction=0).clamp(min=1e-8)
        fitted, held = (fitted - mean) / std, (held - mean) / std
        wanted = targets[fold != each]
        square = fitted.T @ fitted + RIDGE * len(fitted) * torch.eye(rows.shape[1], dtype=torch.float64)
        weight = torch.linalg.solve(square, fitted.T @ (wanted - wanted.mean(0)))
        right += int((held @ weight + wanted.mean(0)).argmax(1).eq(labels[fold == each]).sum())
    return right / len(rows)


def effective_rank(embedding_ND: Tensor) -> float:
    """Return RankMe's effective rank of (N, D) embeddings, from 1 to min(N, D)."""
    values = torch.linalg.svdvals(embedding_ND.double())
    share = values / values.sum().clamp(min=1e-30) + 1e-7
    return float((-(share * share.log()).sum()).exp())


class Embeddings:
    """No hard loss; an ``Objective`` of the engine.

    Args:
        labelled: the samples that are measured on have classes.
    """

    def __init__(self, labelled: bool):
        self.num_classes = 0
        self.metric = KNN if labelled else RANK
        self.chance: float | None = None

    def hard_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return zero, whatever (B, D) embeddings and labels are given."""
        return at_least_fp32(logits).sum() * 0.0

    def meter(self) -> EmbeddingMeter:
        """Return a new meter of knn, probe (both None without labels) and rankme."""
        return EmbeddingMeter()


class EmbeddingMeter(KeptRows):
    """Keeps all embeddings: each is compared with all others."""

    def metrics(self) -> dict[str, Any]:
        """Return "knn" and "probe" in [0, 1], None where fewer than two samples have a class, and "rankme"."""
        index, labels, embedding = (torch.cat(column) for column in zip(*self.parts, strict=True))
        order = index.argsort()
        labels, embedding = labels[order], embedding[order]
        known = labels >= 0
        found: dict[str, Any] = {"knn": None, "probe": None}
        if int(known.sum()) > 1:
            classes, numbers = labels[known].unique(return_inverse=True)
            found = {
                "knn": knn_accuracy(embedding[known], numbers),
                "probe": probe_accuracy(embedding[known], numbers) if len(classes) > 1 else None,
            }
        return {**found, "rankme": effective_rank(embedding)}
