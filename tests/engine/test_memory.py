"""Where memory runs out: what counts as that, and that processes split a batch together or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor

from kdtool.engine.memory import found_no_memory, together
from kdtool.engine.signals import StopRequest
from kdtool.engine.trainer import fit
from kdtool.events import Reporter
from tests.engine import tiny

BOTH = 2
ROOM = 2  # samples that one process's device has room for


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (getattr(torch, "AcceleratorError", RuntimeError)("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 5.00 GB)"), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:115] err == 0. DefaultCPUAllocator: can't allocate memory"),
            True,
        ),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_counts_as_no_memory(error: RuntimeError, is_one: bool) -> None:
    def attempt() -> None:
        raise error

    assert found_no_memory(error) == is_one
    with pytest.raises(torch.OutOfMemoryError if is_one else type(error)) as raised:
        together(attempt, agree=False)
    assert is_one == isinstance(raised.value, torch.OutOfMemoryError)


class Hungry(tiny.Net):
    """A network whose device has room for few samples: some gradients are there when it shows."""

    def forward(self, x: Tensor) -> Any:
        logits, taps = super().forward(x)
        if self.training and len(x) > ROOM:
            taps["middle"].register_hook(_no_room)
        return logits, taps


def _no_room(_: Tensor) -> None:
    raise RuntimeError("CUDA error: out of memory")


class _Heard(Reporter):
    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def _process(rank: int, folder: str) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(BOTH), GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=BOTH)
    batches, heard = tiny.Batches(part=(rank, BOTH)), _Heard()
    student = (Hungry if rank else tiny.Net)(norm=False)
    train = {"auto_batch": True, "precision": "fp64", "epochs": 2}
    changes = {"train": train, "train_batches": batches, "val_batches": tiny.Batches(24, part=(rank, BOTH))}
    fitted = fit(tiny.job(Path(folder), student=student, **changes), heard, StopRequest())
    torch.save({"state": fitted.state, "warnings": heard.warnings}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_split_a_batch_together(tmp_path: Path) -> None:
    mp.spawn(_process, (str(tmp_path),), nprocs=BOTH)
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(BOTH))
    assert [("micro-batches of 2 samples" in text) for text in one["warnings"] + other["warnings"]] == [True, True]
    alone = fit(
        tiny.job(tmp_path / "alone", student=tiny.Net(norm=False), train={"precision": "fp64", "epochs": 2}),
        Reporter(),
        StopRequest(),
    )
    for name, tensor in alone.state.items():
        assert torch.equal(one["state"][name], other["state"][name])
        assert (one["state"][name] - tensor).abs().max() < 1e-9
    assert [json.loads(line)["skipped"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [0, 0]
