"""Batches on their way to a card: asynchronously, out of a few pieces of pinned memory, whatever the tree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from kdtool.engine import tree
from kdtool.engine.staging import Staging
from tests.simulated import simulated


@dataclass
class Own:
    """A task's own kind of inputs."""

    ids: Tensor

    def apply(self, function: Any) -> Own:
        return Own(function(self.ids))


def _batch(number: int, length: int = 5) -> Any:
    drawn = torch.Generator().manual_seed(number)
    ids = torch.randint(0, 99, (3, length), generator=drawn)
    more = {"flags": ids % 2 == 0, "bytes": ids[0].to(torch.uint8), "lone": torch.tensor(number, dtype=torch.bfloat16)}
    return (
        {"own": Own(ids), "mapped": more},
        torch.rand(3, length, 2, generator=drawn).transpose(1, 2),
        torch.empty(0),
    )


def _assert_same(got: Any, want: Any) -> None:
    for ours, theirs in zip(tree.tensors(got), tree.tensors(want), strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours.cpu(), theirs)


@pytest.mark.parametrize("pieces", [1, 2])
def test_batches_arrive_as_they_were_though_their_memory_is_used_again(pieces: int) -> None:
    """The simulated device copies as late as it may: what is overwritten too early would arrive changed."""
    with simulated() as device:
        send = Staging(device(), pieces)
        sent = [send(_batch(number, 5 + number % 3)) for number in range(7)]
        assert device.waits["to device"] == 0
        for number, got in enumerate(sent):
            assert type(got[0]["own"]) is Own
            assert all(tensor.is_cuda for tensor in tree.tensors(got))
            _assert_same(got, _batch(number, 5 + number % 3))


def test_no_batch_waits_for_one_that_is_used_and_none_pins_memory_anew() -> None:
    with simulated() as device:
        send = Staging(device())
        for number in range(20):
            got = send(_batch(number, 8 - number % 4))
            _assert_same(got, _batch(number, 8 - number % 4))
            device.waits.pop("to host", None)  # of this comparison
        assert not +device.waits
        assert len(device.pinned) == 2


def test_the_host_waits_for_a_piece_that_is_still_copied() -> None:
    with simulated() as device:
        send = Staging(device())
        for number in range(3):
            send(_batch(number))
        assert device.waits["event"] == 1


def test_what_is_pinned_or_there_already_is_not_copied_to_other_memory() -> None:
    with simulated() as device:
        pinned = torch.empty(4, pin_memory=True).fill_(2.0)
        there = torch.ones(4).to(device())
        device.waits.clear()
        first, second = Staging(device())((pinned, there))
        assert second is there
        assert torch.equal(first.cpu(), torch.full((4,), 2.0))
        assert len(device.pinned) == 1
        assert device.waits["to device"] == 0


@pytest.mark.parametrize("name", ["cpu", "mps"])
def test_elsewhere_trees_are_copied_as_they_come(name: str) -> None:
    with simulated("mps"):
        _assert_same(Staging(torch.device(name))(_batch(1)), _batch(1))
