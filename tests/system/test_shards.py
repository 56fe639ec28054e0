"""Processes that divide the weights train what one process does, and go on where any number stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.running import PAIR, SMALL, call, distil

# Clipped and with statistics that stay, as in tests/system/test_processes.py: else a rounding error becomes anything.
GIVEN = [
    *(*PAIR, *SMALL, "--epochs", "3", "--lr", "0.01", "optim.name=momentum", "schedule.name=constant"),
    *("schedule.warmup_epochs=0", "train.freeze_bn=true", "train.clip_grad=0.5", "checkpoint.keep=20"),
    "train.checkpoint_activations=true",
]
DIVIDED = ["--nproc", "2", "parallel.shard=fsdp"]


def _start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "kdtool", "run", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _run(*arguments: object) -> None:
    process = _start(*arguments)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err


def _weights(folder: Path) -> torch.Tensor:
    file = folder / "student" / "model.safetensors"
    found = load_file(file if file.exists() else folder)
    return torch.cat([found[name].double().flatten() for name in sorted(found) if found[name].is_floating_point()])


def _assert_alike(one: Path, other: Path, begun: Path, share: float = 1e-4) -> None:
    """Tell two runs' weights and losses alike: by their size, and by the way that training took them."""
    a, b, first = _weights(one), _weights(other), load_file(begun)
    start = torch.cat([first[name].double().flatten() for name in sorted(first) if first[name].is_floating_point()])
    assert float((a - b).norm() / a.norm()) <= 1e-6
    assert float((a - b).norm()) <= share * float((a - start).norm())
    logs = [[json.loads(line)["train"] for line in (each / "metrics.jsonl").open()] for each in (one, other)]
    assert len(logs[0]) == 3
    for ours, theirs in zip(*logs, strict=True):
        assert theirs == pytest.approx(ours, rel=1e-5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student with statistics of its own."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    distil(folder, *PAIR, "--method", "none", "--epochs", "2", "--lr", "0.003")
    return folder / "student" / "model.safetensors"


@pytest.fixture(scope="module")
def given(trained: Path) -> list[object]:
    return [*GIVEN, "--method", "kd", "--student-weights", trained]


@pytest.fixture(scope="module")
def alone(given: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert call("run", *given, "--out", folder).code == 0
    return folder


@pytest.fixture(scope="module")
def divided(given: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run of two that divide the weights."""
    folder = tmp_path_factory.mktemp("divided") / "run"
    _run(*given, *DIVIDED, "--out", folder)
    return folder


@pytest.mark.slow
def test_two_that_divide_the_weights_train_what_one_does(alone: Path, divided: Path, trained: Path) -> None:
    _assert_alike(alone, divided, trained)
    tests = [json.loads((each / "result.json").read_text())["test"] for each in (alone, divided)]
    assert tests[0]["student"]["top1"] == pytest.approx(tests[1]["student"]["top1"], abs=0.01)
    assert tests[0]["teacher"]["top1"] == pytest.approx(tests[1]["teacher"]["top1"], abs=0.01)
    newest = max((divided / "checkpoints").glob("step-000000-*"))
    parts = [load_file(file) for file in sorted((newest / "parts").iterdir())]
    assert len(parts) == 2
    sizes = [sum(tensor.numel() for tensor in part.values()) for part in parts]
    assert min(sizes) > 0.4 * sum(sizes)  # each process wrote its own half
    assert not list(divided.rglob("*.tmp"))


def _stopped(run: Path, folder: Path) -> Path:
    """Return a copy of a run as it was after two epochs."""
    shutil.copytree(run, folder)
    for newer in (folder / "checkpoints").glob("step-000001-*"):
        shutil.rmtree(newer)
    (folder / "result.json").unlink()
    shutil.rmtree(folder / "student")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("by", "more"),
    [("divided", []), ("divided", ["--nproc", "2"]), ("alone", DIVIDED)],
    ids=["two then one", "two then two", "one then two"],
)
def test_any_number_of_processes_goes_on(
    by: str, more: list[str], alone: Path, divided: Path, trained: Path, tmp_path: Path
) -> None:
    whole = {"alone": alone, "divided": divided}[by]
    folder = _stopped(whole, tmp_path / "run")
    if more:
        _run("--resume", folder, *more)
    else:
        assert call("run", "--resume", folder).code == 0
    if more == ["--nproc", "2"]:
        student = Path("student") / "model.safetensors"
        assert (folder / student).read_bytes() == (whole / student).read_bytes()
    _assert_alike(whole, folder, trained)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bytes(given: list[object], divided: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = _start(*given, *DIVIDED, "checkpoint.every_steps=2", "--out", folder)
    until = time.monotonic() + 300
    while not list(folder.glob("checkpoints/step-000000-000001-*")) and time.monotonic() < until:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    newest = max((folder / "checkpoints").glob("step-*"))
    torn = next((newest / "parts").iterdir())  # and the newest checkpoint is of no use
    torn.write_bytes(torn.read_bytes()[:-8])
    _run("--resume", folder)
    student = Path("student") / "model.safetensors"
    assert (folder / student).read_bytes() == (divided / student).read_bytes()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        pytest.param(["train.ema=0.9"], "train.ema=0.9 is not possible"),
        pytest.param(["--method", "simkd"], "method simkd is not possible, for it ships other layers"),
        pytest.param(["--precision", "fp16"], "bf16 needs none", marks=pytest.mark.slow),
        pytest.param(["train.compile=default"], "train.compile=default", marks=pytest.mark.slow),
        pytest.param(["--auto-batch"], "train.auto_batch=true", marks=pytest.mark.slow),
        pytest.param(["teacher.precision=int8"], "teacher.precision=int8", marks=pytest.mark.slow),
        pytest.param(["cache.mode=build", "data.views=1"], "kdtool cache build", marks=pytest.mark.slow),
        pytest.param(["--method", "at", "at.attention=gradient"], "gradients by the images", marks=pytest.mark.slow),
    ],
)
def test_what_cannot_be_divided_is_refused_by_name(more: list[str], said: str) -> None:
    done = call("run", *PAIR, *SMALL, "parallel.shard=fsdp", "--dry-run", *more)
    assert done.code == 2, done.out
    assert said in done.err
    assert "Traceback" not in done.err


@pytest.mark.slow
def test_one_process_keeps_weights_whole(tmp_path: Path) -> None:
    done = distil(tmp_path / "run", "--method", "kd", "parallel.shard=fsdp")
    plain = distil(tmp_path / "plain", "--method", "kd")
    assert done.file() == plain.file()
