"""Rows of a file from outputs, and back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from kdtool.cache.part import Part
from kdtool.errors import InputError


def back(part: Part, outputs: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    rows = part.encode(outputs)
    return part.decode({name: torch.from_numpy(rows[name].copy()) for name in part.row.names or ()}, dtype)


@pytest.mark.parametrize(("dtype", "error"), [("fp32", 0.0), ("fp16", 2**-11)])
def test_all_numbers_come_back_to_storage_error(dtype: str, error: float) -> None:
    outputs = torch.randn(7, 33, generator=torch.Generator().manual_seed(0)) * 10
    found = back(Part("logits", 33, dtype, 1), outputs)
    assert found.dtype == torch.float32
    assert ((found - outputs).abs() <= error * outputs.abs()).all()


@pytest.mark.parametrize("width", [5, 40_000])
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_top_k_keeps_its_classes_and_spreads_the_remaining_mass(width: int, dtype: str) -> None:
    k, outputs = 3, torch.randn(4, width, generator=torch.Generator().manual_seed(1)) * 5
    found = back(Part("logits", width, dtype, 1, top_k=k), outputs).double().softmax(1)
    for row, shown in zip(outputs.double().tolist(), found, strict=True):
        total = math.fsum(math.exp(x) for x in row)
        order = sorted(range(width), key=lambda i: -row[i])
        want = [0.0] * width
        for i in order[:k]:
            want[i] = math.exp(row[i]) / total
        left = math.fsum(math.exp(row[i]) / total for i in order[k:]) / (width - k)
        for i in order[k:]:
            want[i] = left
        assert shown.tolist() == pytest.approx(want, rel=1e-2 if dtype == "fp16" else 1e-5)


def test_a_row_takes_what_it_says() -> None:
    assert Part("logits", 1000, "fp16", 1).row.itemsize == 2000
    assert Part("logits", 1000, "fp16", 1, top_k=16).row.itemsize == 4 + 16 * (2 + 2)
    assert Part("logits", 100_000, "fp32", 1, top_k=16).row.itemsize == 4 + 16 * (4 + 4)


@pytest.mark.parametrize(("value", "dtype", "words"), [(1e5, "fp16", "cache.dtype=fp32"), (np.nan, "fp32", "weights")])
def test_numbers_that_cannot_be_stored_are_refused(value: float, dtype: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Part("embedding", 2, dtype, 1).encode(torch.tensor([[1.0, value]]))
