"""How long processes wait for one another: hours for a teacher that one of them trains, minutes within a step."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from kdtool.engine.processes import joined
from tests.simulated import simulated


@pytest.mark.parametrize("device", ["cuda:1", "cpu"])
def test_a_step_on_cards_does_not_wait_for_hours(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def backend_of(place: torch.device) -> Any:
        return SimpleNamespace(_set_default_timeout=lambda patience: seen.update({place.type: patience}))

    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setattr(dist, "init_process_group", lambda backend, timeout: seen.update(backend=backend, all=timeout))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(dist, "group", SimpleNamespace(WORLD=SimpleNamespace(_get_backend=backend_of)))
    with simulated(), joined(torch.device(device)):
        pass
    on_a_card = device != "cpu"
    assert seen["backend"] == ("cpu:gloo,cuda:nccl" if on_a_card else "gloo")
    assert seen["all"] >= timedelta(hours=1)
    assert seen.get("cuda") == (timedelta(minutes=10) if on_a_card else None)
