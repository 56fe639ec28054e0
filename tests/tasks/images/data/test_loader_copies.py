"""What of a batch is copied to a device."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.simulated import simulated
from tests.tasks.images.data.test_loader import _all, _loader


@pytest.mark.parametrize("cfg", [{}, {"mixup": 0.2, "erase": 0.5, "color_jitter": 0.4}], ids=["plain", "all"])
@pytest.mark.parametrize("budget", [1.0, 0.0], ids=["kept", "streamed"])
def test_a_device_gets_the_same_batches_and_no_later_one_waits(budget: float, cfg: dict[str, Any]) -> None:
    want = _all(_loader(cfg=cfg))
    with simulated() as device:
        batches = _loader(cfg=cfg, memory_budget_gb=budget, device=device()).epoch(0)
        waits = []
        for here in want:
            device.waits.clear()
            batch = next(batches)
            waits.append(dict(device.waits))
            assert batch.index.is_cuda
            assert batch.positions is not None
            assert torch.equal(batch.positions, here.index)
            assert torch.equal(batch.inputs.cpu(), here.inputs)
            assert torch.equal(batch.labels.cpu(), here.labels)
            assert torch.equal(batch.index.cpu(), here.index)
    assert set(waits[0]) == {"to device"}  # what an epoch copies at once
    assert not any(waits[1:]), waits
