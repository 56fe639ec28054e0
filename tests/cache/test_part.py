"""Rows of a file from outputs, and back."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdtool.cache.part import Part
from kdtool.cache.replay import Kept
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


# --- what was left out ------------------------------------------------------------------------------------------------


def kept(logits: torch.Tensor, k: int, rest: str) -> Kept:
    """Return logits as a cache gives them that keeps the largest k."""
    part = Part("logits", logits.shape[1], "fp32", 1, top_k=k)
    rows = part.encode(logits)
    stored = {name: torch.from_numpy(np.ascontiguousarray(rows[name])) for name in rows.dtype.names or ()}
    about: Any = SimpleNamespace(part=part, dtype=torch.float64, rest=rest)
    return Kept(stored, about)


def one_class(student: torch.Tensor, teacher: torch.Tensor, k: int, forward: bool) -> torch.Tensor:
    """Return the KL in which all classes but the teacher's k likeliest are one."""
    total = torch.zeros((), dtype=torch.float64)
    for s, t in zip(student.softmax(1), teacher.softmax(1), strict=True):
        best = sorted(range(len(t)), key=lambda i: -float(t[i]))[:k]
        p = torch.stack([*(t[i] for i in best), 1 - sum(t[i] for i in best)])
        q = torch.stack([*(s[i] for i in best), 1 - sum(s[i] for i in best)])
        p, q = (p, q) if forward else (q, p)
        total = total + sum(a * (a / b).log() for a, b in zip(p, q, strict=True))
    return total / len(student)


@pytest.mark.parametrize("forward", [True, False])
def test_what_was_left_out_is_one_class_in_value_and_gradient(forward: bool) -> None:
    generator = torch.Generator().manual_seed(4)
    # Storable in fp32 as they are, so that nothing but the rest can differ.
    student, teacher = (torch.randn(5, 11, generator=generator).double() * 2 for _ in range(2))
    student.requires_grad_()
    made = kept(teacher, 3, "student").whole(student.detach())
    given = (made, student) if forward else (student, made)
    found = F.kl_div(given[1].log_softmax(1), given[0].log_softmax(1), reduction="batchmean", log_target=True)
    want = one_class(student, teacher, 3, forward)
    assert found.item() == pytest.approx(want.item(), rel=1e-6)
    gradients = [torch.autograd.grad(loss, student)[0] for loss in (found, want)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-8)


def test_what_was_left_out_can_be_nothing_or_even() -> None:
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(2)).double()
    best = logits.topk(3, dim=1)
    nothing = kept(logits, 3, "none").whole(torch.zeros(4, 9)).softmax(1)
    torch.testing.assert_close(nothing.gather(1, best.indices), best.values.softmax(1), rtol=1e-6, atol=0)
    assert (nothing.scatter(1, best.indices, 0.0) == 0).all()
    for rest, beside in (("even", torch.randn(4, 9)), ("student", None)):
        even = kept(logits, 3, rest).whole(beside).softmax(1).scatter(1, best.indices, 0.0)
        others = even.sum(1, keepdim=True) / 6
        assert torch.allclose(even[even > 0].view(4, 6), others.expand(4, 6))


def test_kept_logits_are_made_in_parts() -> None:
    logits, beside = torch.randn(7, 9).double(), torch.randn(7, 9).double()
    late = kept(logits, 4, "student")
    assert late.shape == (7, 9)
    ends = beside.split([3, 4])
    parts = [part.whole(own) for part, own in zip(late.split([3, 4]), ends, strict=True)]
    assert torch.equal(torch.cat(parts), late.whole(beside))
