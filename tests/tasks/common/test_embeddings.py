"""What embeddings are measured by, against a literal reading of each definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kdtool.tasks.common.embeddings import Embeddings, effective_rank, knn_accuracy, probe_accuracy


def _blobs(spread: float, count: int = 40, width: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    centres = 3 * torch.randn(3, width, generator=draw)
    return centres[labels] + spread * torch.randn(count, width, generator=draw), labels


@pytest.mark.parametrize("spread", [0.1, 2.0, 5.0])
def test_knn_leaves_each_sample_out(spread: float) -> None:
    embedding, labels = _blobs(spread)
    rows = embedding.double().tolist()
    right = 0
    for i, own in enumerate(rows):
        cosines = []
        for j, other in enumerate(rows):
            if i != j:
                dot = sum(a * b for a, b in zip(own, other, strict=True))
                cosines.append((dot / (math.hypot(*own) * math.hypot(*other)), int(labels[j])))
        votes: dict[int, float] = {}
        for cosine, label in sorted(cosines, reverse=True)[:20]:
            votes[label] = votes.get(label, 0.0) + math.exp(cosine / 0.07)
        right += max(votes, key=lambda label: votes[label]) == int(labels[i])
    assert knn_accuracy(embedding, labels) == pytest.approx(right / len(rows))


@pytest.mark.parametrize("spread", [0.1, 2.0, 5.0])
def test_the_probe_is_fitted_on_the_other_folds(spread: float) -> None:
    embedding, labels = _blobs(spread)
    rows, right = embedding.double().numpy(), 0
    for fold in range(5):
        held = [i for i in range(len(rows)) if i % 5 == fold]
        fitted = [i for i in range(len(rows)) if i % 5 != fold]
        mean, std = rows[fitted].mean(0), rows[fitted].std(0)
        known = (rows[fitted] - mean) / std
        targets = np.eye(3)[labels.numpy()[fitted]]
        normal = known.T @ known + 1e-3 * len(fitted) * np.eye(rows.shape[1])
        weight = np.linalg.inv(normal) @ known.T @ (targets - targets.mean(0))
        for i in held:
            scores = (rows[i] - mean) / std @ weight + targets.mean(0)
            right += int(scores.argmax()) == int(labels[i])
    assert probe_accuracy(embedding, labels) == pytest.approx(right / len(rows))


def test_the_effective_rank_of_known_spectra() -> None:
    assert effective_rank(torch.eye(8)) == pytest.approx(8, rel=1e-4)
    assert effective_rank(torch.ones(9, 4)) == pytest.approx(1, abs=1e-3)
    values = [0.5, 0.25, 0.25]
    expected = math.exp(-sum(p * math.log(p) for p in values))
    assert effective_rank(torch.diag(torch.tensor(values))) == pytest.approx(expected, rel=1e-5)


def test_a_meter_needs_no_labels_and_no_order() -> None:
    embedding, labels = _blobs(0.1)
    meter, other = Embeddings(True).meter(), Embeddings(True).meter()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    for part in order.split(7):
        meter.add(embedding[part], labels[part], part)
    other.add(embedding, labels, torch.arange(len(labels)))
    assert meter.metrics() == other.metrics()
    assert meter.metrics()["knn"] == 1.0
    bare = Embeddings(False).meter()
    bare.add(embedding, torch.full_like(labels, -1), torch.arange(len(labels)))
    assert bare.metrics()["knn"] is None
    assert bare.metrics()["probe"] is None
    assert bare.metrics()["rankme"] == other.metrics()["rankme"]


def test_there_is_no_hard_loss() -> None:
    embedding = torch.randn(4, 3, requires_grad=True)
    loss = Embeddings(True).hard_loss(embedding, torch.tensor([0, 1, -1, 2]))
    loss.backward()
    assert loss.item() == 0
    assert embedding.grad is not None
    assert not embedding.grad.any()
