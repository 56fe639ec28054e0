"""Outputs that the host looks up reach a card without a wait for it, and are those that were kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kdtool.cache.replay import Outputs, Replayed, ReplayedTeacher
from kdtool.cache.store import Store
from kdtool.engine.signals import StopRequest
from kdtool.engine.trainer import fit
from kdtool.events import Reporter
from kdtool.recipe.rates import Optim
from tests.cache.small import stored
from tests.engine import tiny
from tests.engine.test_devices import Watching
from tests.engine.test_trainer import Hinted
from tests.simulated import simulated


def _fit(folder: Path, store: Store, resident: bool, batches: tiny.Batches, accumulate: int) -> Any:
    """Train on a cache's logits, in the method's second stage; the first reads a map, which it does not hold."""
    torch.manual_seed(0)
    outputs = Outputs(store, store.manifest.parts["logits"], resident, batches.device, torch.float32)
    job = tiny.job(
        folder,
        Hinted(),
        device=batches.device,
        train_batches=batches,
        val_batches=tiny.Batches(24, device=batches.device),
        train={"log_every": 1000, "accumulate": accumulate},
        optim=Optim(name="sgd", lr=0.01),
        replay=Replayed([ReplayedTeacher({"logits": outputs}, {}, {})], []),
    )
    return fit(job, Reporter(), StopRequest())


@pytest.mark.parametrize(("resident", "accumulate"), [(True, 1), (False, 1), (False, 2)])
def test_no_step_waits_for_outputs_that_are_not_on_the_device(tmp_path: Path, resident: bool, accumulate: int) -> None:
    store = stored(tmp_path / "cache", samples=48, shard_rows=20, views=1, width=tiny.CLASSES)
    with simulated() as device:
        device.free = 0  # nothing of a cache finds room there
        batches = Watching(device=device())
        batches.device_seen, batches.steps_seen = device, []
        there = _fit(tmp_path / "there", store, resident, batches, accumulate)
    assert len(batches.steps_seen) > 10
    assert not any(batches.steps_seen), batches.steps_seen
    here = _fit(tmp_path / "here", store, resident, tiny.Batches(), accumulate)
    for key, tensor in here.state.items():
        assert torch.allclose(there.state[key], tensor, atol=1e-6, rtol=0), key
