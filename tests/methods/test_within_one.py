"""Shares of a warm-up: a number, or a tensor that the host does not read, where steps are compiled or recorded."""

from __future__ import annotations

import pytest
import torch

from kdtool.losses import within_one
from tests.simulated import simulated


@pytest.mark.parametrize(("share", "held"), [(-0.5, 0.0), (0.0, 0.0), (0.25, 0.25), (1.0, 1.0), (7, 1.0)])
def test_a_share_is_held_and_not_read(share: float, held: float) -> None:
    assert within_one(share) == held
    with simulated() as device:
        there = torch.tensor(float(share)).to("cuda")
        before = sum(device.waits.values())
        found = within_one(there)
        assert sum(device.waits.values()) == before
        assert float(found) == held
        assert sum(device.waits.values()) > before  # reading it would have been counted
