"""What evaluation does to images: corruptions, and preprocessing that travels."""

from __future__ import annotations

import numpy as np
import pytest

from kdtool.errors import InputError
from kdtool.tasks.images.evaluation.corruptions import STRENGTHS, Corruption
from kdtool.tasks.images.evaluation.preprocessing import Metadata, Preprocessing


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
