"""What of a batch is copied to a device."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from tests.simulated import simulated
from tests.tasks.images.data.test_loader import _all, _loader


@pytest.mark.parametrize("cfg", [{}, {"mixup": 0.2, "erase": 0.5, "color_jitter": 0.4}], ids=["plain", "all"])
@pytest.mark.parametrize("budget", [1.0, 0.0], ids=["kept", "streamed"])
def test_a_device_gets_the_same_batches_in_few_copies(budget: float, cfg: dict[str, Any]) -> None:
    want = _all(_loader(cfg=cfg))
    with simulated() as device:
        loader = _loader(cfg=cfg, memory_budget_gb=budget, device=device())
        copies = []
        for batch, here in zip(loader.epoch(0), want, strict=True):
            copies.append(device.waits["to device"])
            assert batch.index.is_cuda
            assert torch.equal(batch.inputs.cpu(), here.inputs)
            assert torch.equal(batch.labels.cpu(), here.labels)
            assert torch.equal(batch.index.cpu(), here.index)
        waits = dict(device.waits)
    if not cfg:
        a_batch = {after - before for before, after in pairwise(copies)}
        assert a_batch == {0}
        assert set(waits) <= {"to device", "to host"}
