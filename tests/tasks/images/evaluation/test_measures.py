"""Measures beside literal readings of their definitions, corruptions and preprocessing that travels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdtool.errors import InputError
from kdtool.tasks.common import measures
from kdtool.tasks.images.evaluation.corruptions import STRENGTHS, Corruption
from kdtool.tasks.images.evaluation.preprocessing import Metadata, Preprocessing

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


def test_classes_are_counted_as_scikit_learn_counts() -> None:
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    predicted = LOGITS.argmax(1)
    assert measures.confusion(LOGITS, LABELS, 7).tolist() == confusion_matrix(LABELS, predicted).tolist()
    rows = measures.per_class(LOGITS, LABELS, list("abcdefg"))
    for column, expected in zip(
        ("precision", "recall", "f1", "support"), precision_recall_fscore_support(LABELS, predicted), strict=True
    ):
        assert [row[column] for row in rows] == pytest.approx(expected.tolist())


def test_a_class_that_is_absent_has_no_recall() -> None:
    row = measures.per_class(torch.eye(3)[:2], torch.tensor([0, 1]), list("abc"))[2]
    assert (row["support"], row["precision"], row["recall"], row["f1"]) == (0, None, None, None)


def test_agreement_and_kl_of_a_network_with_itself() -> None:
    assert measures.agreement(LOGITS, LOGITS) == {"agreement": 1.0, "kl": 0.0}
    other = LOGITS.flip(1)
    p, q = LOGITS.double().softmax(1), other.double().softmax(1)
    assert measures.agreement(other, LOGITS)["kl"] == pytest.approx((p * (p / q).log()).sum(1).mean().item())


@pytest.mark.parametrize("kind", STRENGTHS)
def test_corruptions_are_functions_of_the_row_and_grow(kind: str) -> None:
    image = np.random.Generator(np.random.Philox(1)).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    worse = [Corruption(kind, severity)(image, 5) for severity in (1, 5)]
    assert np.array_equal(worse[0], Corruption.parse(f"{kind}:1")(image, 5))
    differ = [np.abs(each.astype(float) - image).mean() for each in worse]
    assert 0 < differ[0] < differ[1]
    if kind == "noise":
        assert not np.array_equal(worse[0], Corruption(kind, 1)(image, 6))


@pytest.mark.parametrize("text", ["fog", "noise:6", "noise:", "blur:x"])
def test_other_corruptions_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--corrupt"):
        Corruption.parse(text)


def test_metadata_travels_and_a_strange_file_is_told() -> None:
    meta = Metadata(Preprocessing(32, (0.1, 0.2, 0.3), (1.0, 1.0, 2.0), 0.9), ["äpfel", "b"], "x", 5, 6)
    assert Metadata.read(meta.texts(), "f") == meta
    with pytest.raises(InputError, match="kdtool export"):
        Metadata.read({}, "f.onnx")
