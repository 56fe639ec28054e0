"""The operation that a NaN comes from is named, on a simulated device too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import torch
from torch import Tensor

from tests.not_numbers import NotNumbers
from tests.simulated import simulated


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    with ExitStack() as stack:
        if request.param == "cuda":
            stack.enter_context(simulated())
        yield torch.device(request.param)


def test_the_first_is_named_and_no_later_one(device: torch.device) -> None:
    weight = torch.zeros(3, device=device, requires_grad=True)
    with NotNumbers() as seen:
        torch.empty(64, device=device).fill_(2.0)
        (weight.sqrt() * 0).sum().backward()  # 0 times the infinite slope at 0
        _ = torch.ones(3, device=device) * float("nan")
    assert weight.grad is not None
    assert seen.first.startswith("div((3,) strides (1,) torch.float32 finite"), seen.first
    assert seen.first.endswith("and the same again")


def test_what_is_written_in_place_is_told_as_it_was_before(device: torch.device) -> None:
    numbers = torch.tensor([float("inf"), 1.0]).to(device)
    with NotNumbers() as seen:
        numbers.mul_(0.0)
    assert seen.first == "mul_((2,) strides (1,) torch.float32 infinite, 0.0)"


def test_an_operation_that_gives_something_else_when_repeated_is_said_to(device: torch.device) -> None:
    turns = []

    @torch.library.custom_op("kdtool_tests::now_and_then", mutates_args=())
    def now_and_then(x: Tensor) -> Tensor:
        turns.append(1)
        return x.clone() if len(turns) > 1 else x * float("nan")

    with NotNumbers() as seen:
        now_and_then(torch.ones(2, device=device))
    assert seen.first.startswith("now_and_then((2,)")
    assert seen.first.endswith("but another result when repeated")


def test_finite_numbers_are_nothing_to_tell(device: torch.device) -> None:
    with NotNumbers() as seen:
        torch.ones(3, device=device).div(0.0).clamp(max=1.0).sum()
    assert seen.first == ""
