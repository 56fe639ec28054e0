"""Measures beside literal readings of their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdtool.tasks.common import measures

LOGITS = torch.randn(200, 7, generator=torch.Generator().manual_seed(0)) * 2
LABELS = torch.arange(200) % 7


def test_ece_is_guo_et_al_equation_3() -> None:
    probability = np.exp(LOGITS.double().numpy())
    probability /= probability.sum(1, keepdims=True)
    confidence, predicted = probability.max(1), probability.argmax(1)
    expected = 0.0
    for m in range(15):
        inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        if inside.any():
            accuracy = (predicted[inside] == LABELS.numpy()[inside]).mean()
            expected += inside.sum() / 200 * abs(accuracy - confidence[inside].mean())
    found = measures.calibration(LOGITS, LABELS)
    assert found["ece"] == pytest.approx(expected, abs=1e-12)
    assert sum(row["count"] for row in found["bins"]) == 200
    assert found["nll"] == pytest.approx(-np.log(probability[np.arange(200), LABELS.numpy()]).mean())


def test_classes_are_counted_as_their_definitions_say() -> None:
    predicted = LOGITS.argmax(1)
    counts = measures.confusion(LOGITS, LABELS, 7)
    rows = measures.per_class(LOGITS, LABELS, list("abcdefg"))
    for number, row in enumerate(rows):
        true, said = number == LABELS, predicted == number
        both = int((true & said).sum())
        assert counts[number].tolist() == [int((true & (predicted == other)).sum()) for other in range(7)]
        assert (row["class"], row["support"]) == ("abcdefg"[number], int(true.sum()))
        assert row["precision"] == pytest.approx(both / int(said.sum()))
        assert row["recall"] == pytest.approx(both / int(true.sum()))
        assert row["f1"] == pytest.approx(2 * both / int(true.sum() + said.sum()))


@pytest.mark.parametrize(
    ("labels", "predicted", "expected"),
    [
        # Neither there nor said; there and never said; said and not there.
        ([0, 1], [0, 1], (0, None, None, None)),
        ([0, 2], [0, 1], (1, None, 0.0, 0.0)),
        ([0, 1], [0, 2], (0, 0.0, None, 0.0)),
    ],
)
def test_a_ratio_over_nothing_is_none(labels: list[int], predicted: list[int], expected: tuple[object, ...]) -> None:
    row = measures.per_class(torch.eye(3)[predicted], torch.tensor(labels), list("abc"))[2]
    assert (row["support"], row["precision"], row["recall"], row["f1"]) == expected


def test_agreement_and_kl_of_a_network_with_itself() -> None:
    assert measures.agreement(LOGITS, LOGITS) == {"agreement": 1.0, "kl": 0.0}
    other = LOGITS.flip(1)
    p, q = LOGITS.double().softmax(1), other.double().softmax(1)
    assert measures.agreement(other, LOGITS)["kl"] == pytest.approx((p * (p / q).log()).sum(1).mean().item())
