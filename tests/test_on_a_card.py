"""Whole runs on a CUDA card: every method and precision, replay, resume, kill, memory. ``make test-gpu-runs``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.forking import Server
from tests.methods.test_devices import KINDS, METHODS, NETWORKS_WAIT, TOKENS_WAIT, WAITS, on, rig_of, step
from tests.running import CHEAP, PAIR, TEACHER, TWINS, call

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

FEW = [*CHEAP[1:], "--device", "cuda", "--epochs", "2", "--batch-size", "32", "--lr", "0.003", "teacher.train.epochs=1"]


def on_the_card(name: str, task: str, kind: str, precision: str) -> None:
    """Take two steps of every stage; the second may not wait for the card."""
    rig = rig_of(name, kind, task, precision)
    if rig is None:
        return
    on(rig, torch.device("cuda", 0), precision)
    for stage in rig.stages:
        rig.enter(stage)
        step(rig, 1)
        waits = name in WAITS or kind in NETWORKS_WAIT or (task == "text" and name in TOKENS_WAIT)
        torch.cuda.set_sync_debug_mode("default" if waits else "error")
        try:
            terms, gradients = step(rig, 2)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert all(term.isfinite() for term in terms.values())
        assert gradients


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_its_steps(name: str, precision: str) -> None:
    for task, kinds in KINDS.items():
        for kind in kinds:
            on_the_card(name, task, kind, precision)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("method", ["kd", "fitnets", "crd", "rkd+kd", "dml", "ofd", "semckd", "sskd"])
def test_two_epochs(tmp_path: Path, method: str, precision: str) -> None:
    more = ["--precision", precision, "train.ema=0.9", "--baseline"]
    done = call("run", *FEW, *TWINS, "--method", method, *more, "--out", tmp_path / "run", folder=tmp_path / "run")
    assert done.code == 0, done.err
    assert done.result["device"].startswith("cuda")


def test_replayed_and_live_are_alike(tmp_path: Path) -> None:
    given = [*FEW, *PAIR, "data.views=2", "cache.dtype=fp32"]
    runs = {}
    for mode in ("off", "build"):
        folder = tmp_path / mode
        runs[mode] = call("run", *given, f"cache.mode={mode}", "--out", folder, folder=folder)
        assert runs[mode].code == 0, runs[mode].err
    one, other = (run.log()[-1]["train"]["total"] for run in runs.values())
    assert abs(one - other) < 1e-2 * one


def test_equal_bytes_where_they_are_asked_for(tmp_path: Path) -> None:
    given = [*FEW, *TWINS, "train.deterministic=true"]
    files = []
    for number in range(2):
        done = call("run", *given, "--out", tmp_path / str(number), folder=tmp_path / str(number))
        assert done.code == 0, done.err
        files.append(done.file())
    assert files[0] == files[1]


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    server = Server()
    try:
        folder, home = tmp_path / "run", tmp_path / "home"
        given = ["run", *FEW, "--epochs", "30", "--teacher", TEACHER, "--student", TEACHER, "--out", folder]

        def has_checkpoint() -> bool:
            return any((folder / "checkpoints").glob("step-*"))

        assert server.run(home, *given, kill=has_checkpoint) == -9
        assert server.run(home, "run", "--resume", folder) == 0
    finally:
        server.close()
    assert (folder / "student" / "model.safetensors").is_file()


@pytest.mark.parametrize("auto", [False, True])
def test_memory_that_runs_out(tmp_path: Path, auto: bool) -> None:
    torch.cuda.empty_cache()
    _, whole = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 400 * 2**20) / whole)
    try:
        given = [*FEW[2:], "data.image_size=224", "data.labels_per_class=26", "--batch-size", "256", "--epochs", "1"]
        given += ["--teacher", TEACHER, "--student", "resnet50", *(["--auto-batch"] if auto else [])]
        done = call("run", *given, "--out", tmp_path / "run")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert (done.code == 0) == auto, done.err
    assert ("micro-batches" if auto else "no memory for 256 samples at once") in done.err


@pytest.mark.parametrize("more", [[], ["parallel.sync_bn=true"], ["--auto-batch"]], ids=["plain", "norms", "split"])
def test_two_cards(tmp_path: Path, more: list[Any]) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("NCCL needs two cards")
    done = call("run", *FEW, *TWINS, "--nproc", "2", *more, "--out", tmp_path / "run", folder=tmp_path / "run")
    assert done.code == 0, done.err
