"""The hard-label loss with classes that count alike, against a loop."""

from __future__ import annotations

import math

import pytest
import torch

from kdtool.errors import InputError
from kdtool.events import Metric
from kdtool.tasks.common.classification import Classification
from kdtool.tasks.language.objective import NextToken

TRAIN = torch.tensor([0] * 6 + [1] * 3 + [2] * 1 + [-1] * 4)
WEIGHTS = [10 / (3 * 6), 10 / (3 * 3), 10 / (3 * 1), 1.0]
"""N / (K n_c) of the three classes that are there; one that is not gets 1."""


def weighed(smoothing: float) -> Classification:
    found = Classification(4, smoothing)
    found.weigh(TRAIN)
    return found


def _entropy(logits: list[float], target: list[float]) -> float:
    top = max(logits)
    whole = top + math.log(sum(math.exp(each - top) for each in logits))
    return -sum(share * (each - whole) for share, each in zip(target, logits, strict=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_class_counts_by_its_weight(smoothing: float) -> None:
    logits = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([2, 0, -1, 1, 3])
    want = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        if label >= 0:
            target = [smoothing / 4 + (1 - smoothing) * (number == label) for number in range(4)]
            want += WEIGHTS[label] * _entropy(row, target) / 4
    loss = weighed(smoothing).hard_loss(logits, labels)
    assert loss.item() == pytest.approx(want, abs=1e-9)
    (gradient,) = torch.autograd.grad(loss, logits)
    probability = logits.softmax(1)
    for number, label in enumerate(labels.tolist()):
        target_K = smoothing / 4 + (1 - smoothing) * (torch.arange(4) == label).double()
        own = WEIGHTS[label] / 4 * (probability[number] - target_K) if label >= 0 else torch.zeros(4).double()
        assert torch.allclose(gradient[number], own, atol=1e-9)


def test_a_mix_counts_as_its_parts_do() -> None:
    logits = torch.randn(3, 4, dtype=torch.float64)
    labels = torch.tensor([[0.25, 0.0, 0.75, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0] * 4], dtype=torch.float64)
    first = (0.25 * WEIGHTS[0] + 0.75 * WEIGHTS[2]) * _entropy(logits[0].tolist(), labels[0].tolist())
    want = (first + WEIGHTS[1] * _entropy(logits[1].tolist(), labels[1].tolist())) / 2
    assert weighed(0.0).hard_loss(logits, labels).item() == pytest.approx(want, abs=1e-9)


def test_weights_have_the_mean_one_and_parts_of_a_batch_add_up() -> None:
    objective = weighed(0.0)
    assert objective.class_weights is not None
    assert objective.class_weights.tolist() == pytest.approx(WEIGHTS)
    known = TRAIN[TRAIN >= 0]
    assert objective.class_weights[known].mean().item() == pytest.approx(1.0)
    logits = torch.randn(10, 4, dtype=torch.float64)
    parts = [objective.hard_loss(*part) for part in zip(logits.split(5), known.split(5), strict=True)]
    assert (sum(parts) / 2).item() == pytest.approx(objective.hard_loss(logits, known).item(), abs=1e-12)


def test_tokens_are_no_classes() -> None:
    with pytest.raises(InputError, match="class_weights"):
        NextToken(9, 0.0, Metric("perplexity", "perplexity", False, False)).weigh(TRAIN)
