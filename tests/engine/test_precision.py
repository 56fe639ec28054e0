"""In what arithmetic a card computes what is reported, and what a loss subtracts; and which kernels it may take."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from kdtool.engine.evaluate import evaluate_in_fp32
from kdtool.engine.precision import choose_kernels, let_tf32
from kdtool.losses import gram
from kdtool.tasks.common.classification import Classification
from tests.engine import tiny
from tests.simulated import simulated


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave torch's settings, which are the process's, as they were."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    kernels = torch.backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled()
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    torch.backends.cudnn.benchmark = kernels[0]
    torch.use_deterministic_algorithms(kernels[1])


def test_what_is_reported_is_computed_without_tf32_and_training_with_it() -> None:
    seen: list[tuple[bool, bool]] = []

    class Watching(tiny.Net):
        def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            seen.append((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))
            return super().forward(x)

    let_tf32(True)
    evaluate_in_fp32(Watching(), tiny.Batches(), torch.device("cpu"), Classification(tiny.CLASSES).meter())
    assert set(seen) == {(False, False)}
    assert torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.allow_tf32


def test_inner_products_that_are_compared_are_float64_on_a_card() -> None:
    x_BD = 100 + torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    want = (x_BD.double() @ x_BD.double().T).float()
    with simulated() as device:
        got = gram(x_BD.to(device())).cpu()
    assert got.dtype == torch.float32
    assert torch.equal(got, want)
    assert not torch.equal(x_BD @ x_BD.T, want)  # fp32 sums are others


@pytest.mark.parametrize("wanted", [True, False])
def test_kernels_that_give_equal_bits_are_asked_for_by_name(wanted: bool) -> None:
    choose_kernels(wanted)
    assert torch.are_deterministic_algorithms_enabled() is wanted
    assert torch.backends.cudnn.benchmark is not wanted
    assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) is wanted
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
