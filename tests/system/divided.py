"""Runs of one process and of two that divide the weights, at the cost of a fork each."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.forking import Server

DIVIDED = ["parallel.shard=fsdp", "train.checkpoint_activations=true"]


def run_divided(server: Server, home: Path, *arguments: object, count: int = 2) -> None:
    """Run ``kdtool run`` in several processes, and assert that it succeeds."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
    started = [
        server.start(home, "run", *arguments, **common, MASTER_PORT=str(port), RANK=str(n), LOCAL_RANK=str(n))
        for n in range(count)
    ]
    assert [server.wait(pid) for pid in started] == [0] * count, said(home)


def run_alone(server: Server, home: Path, *arguments: object) -> None:
    """Run ``kdtool run`` in one process, and assert that it succeeds."""
    assert server.run(home, "run", *arguments) == 0, said(home)


def said(home: Path) -> str:
    """Return what commands with this home have said."""
    log = Path(f"{home}.log")
    return log.read_text() if log.exists() else ""


def weights(run: Path) -> torch.Tensor:
    """Return a student's weights in a row, float64."""
    found = load_file(run / "student" / "model.safetensors")
    return torch.cat([found[name].double().flatten() for name in sorted(found) if found[name].is_floating_point()])


def apart(one: Path, other: Path) -> float:
    """Return the distance of two students' weights, relative to their size."""
    a, b = weights(one), weights(other)
    return float((a - b).norm() / a.norm())


def log(run: Path) -> list[dict[str, Any]]:
    """Return the epochs' records."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
