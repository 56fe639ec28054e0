"""Several processes are one: the same weights, one folder, one voice, and they live and die together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.running import PAIR, SMALL, call, distil
from tests.sampling import sampled

# Clipped, since a trained student whose norms keep their statistics diverges at this rate (plain torch too), and what
# diverges makes of a rounding error whatever it likes.
TWENTY_STEPS = [
    *("--epochs", "4", "--lr", "0.01", "optim.name=momentum", "optim.momentum=0"),
    *("schedule.name=constant", "schedule.warmup_epochs=0", "train.freeze_bn=true", "train.select=last"),
    "train.clip_grad=0.5",
]


def _run(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "kdtool", "run", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )


def _finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student with statistics of its own."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    distil(folder, *PAIR, "--method", "none", "--epochs", "2", "--lr", "0.003")
    return folder / "student" / "model.safetensors"


def _apart(one: Path, other: Path) -> float:
    """Return the distance of two runs' weights, relative to their size."""
    a, b = (load_file(folder / "student" / "model.safetensors") for folder in (one, other))
    assert a.keys() == b.keys()
    names = [name for name in a if a[name].is_floating_point()]
    whole, gap = (
        torch.cat([t.double().flatten() for t in c]) for c in ([a[n] for n in names], [b[n] - a[n] for n in names])
    )
    return float(gap.norm() / whole.norm())


CASES = [("kd", "fp64"), ("crd", "fp32"), ("rkd", "fp64"), ("kd", "fp32"), ("rkd", "fp32"), ("crd", "fp64")]


@pytest.mark.parametrize(("method", "precision"), sampled(CASES, ("kd", "fp64")))
def test_two_processes_train_what_one_does(tmp_path: Path, trained: Path, method: str, precision: str) -> None:
    given = [*PAIR, *SMALL, *TWENTY_STEPS, "--method", method, "--precision", precision]
    given += ["--student-weights", trained]
    one, two = tmp_path / "one", tmp_path / "two"
    assert call("run", *given, "--out", one).code == 0
    code, _, err = _finish(_run(*given, "--nproc", "2", "--out", two))
    assert code == 0, err
    assert _apart(one, two) <= (1e-10 if precision == "fp64" else 1e-6)
    moved = load_file(trained)
    after = load_file(one / "student" / "model.safetensors")
    assert any(not torch.equal(moved[name], after[name].to(moved[name].dtype)) for name in moved)
    # One voice: the metrics are written once, and they are those of the whole split.
    assert len((two / "metrics.jsonl").read_text().splitlines()) == 4
    assert not list(two.rglob("*.tmp"))


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_is_refused_once(tmp_path: Path) -> None:
    code, _, err = _finish(_run(*PAIR, *SMALL, "--batch-size", "33", "--nproc", "2", "--out", tmp_path / "run"))
    assert code == 2
    assert err.count("cannot be shared by 2 processes") == 1
    assert not (tmp_path / "run").exists()


def test_bad_input_is_refused_before_processes_start(tmp_path: Path) -> None:
    done = call("run", "--method", "nonsense", "--nproc", "2", "--out", tmp_path / "run")
    assert done.code == 2
    assert done.err.count("nonsense") >= 1


def _children(parent: int) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                status = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(status[1]) == parent:
                found.append(int(folder.name))
    return found


@pytest.fixture
def long_run(tmp_path: Path) -> Iterator[tuple[Any, Path]]:
    process = _run(*PAIR, *SMALL, "--epochs", "4000", "--nproc", "2", "--out", tmp_path / "run")
    until = time.monotonic() + 120
    while not (tmp_path / "run" / "metrics.jsonl").exists() and time.monotonic() < until:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    yield process, tmp_path / "run"
    if process.poll() is None:
        process.kill()


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for child processes in /proc")


@pytest.mark.slow
@needs_proc
def test_a_signal_stops_all_with_a_checkpoint(long_run: tuple[Any, Path]) -> None:
    process, folder = long_run
    children = _children(process.pid)
    assert len(children) == 2
    process.send_signal(signal.SIGTERM)
    code, _, err = _finish(process)
    assert code == 143, err
    assert err.count(f"kdtool run --resume {folder}") == 1
    assert list((folder / "checkpoints").glob("step-*"))
    assert not any(Path(f"/proc/{child}").exists() for child in children)


@pytest.mark.slow
@needs_proc
def test_a_process_that_dies_takes_the_others_down(long_run: tuple[Any, Path]) -> None:
    process, _ = long_run
    children = _children(process.pid)
    os.kill(max(children), signal.SIGKILL)
    began = time.monotonic()
    code, _, err = _finish(process)
    assert code == 3
    assert "was ended by SIGKILL" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert time.monotonic() - began < 30
    assert not any(Path(f"/proc/{child}").exists() for child in children)


@needs_proc
@pytest.mark.slow
def test_no_process_outlives_the_command(long_run: tuple[Any, Path]) -> None:
    process, _ = long_run
    children = _children(process.pid)
    process.kill()
    process.wait()
    until = time.monotonic() + 20
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{child}").exists() for child in children)


@pytest.mark.slow
def test_torchrun_starts_the_same_run(tmp_path: Path) -> None:
    given = [*PAIR, *SMALL, "--method", "kd", "--out", tmp_path / "run"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    torchrun += ["--standalone", "--local-addr", "127.0.0.1"]
    command = [*torchrun, "-m", "kdtool", "run", *map(str, given)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert call("run", "--resume", tmp_path / "run").code == 0


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("rendezvous", ["dynamic", "static"])
def test_torchrun_starts_anew_what_a_dead_process_ended(tmp_path: Path, rendezvous: str) -> None:
    given = [*PAIR, *SMALL, "--method", "kd", "--epochs", "40"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "2"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        where = {"dynamic": ["--standalone"], "static": ["--master-port", str(probe.getsockname()[1])]}[rendezvous]
    command = [*torchrun, *where, "--local-addr", "127.0.0.1", "-m", "kdtool", "run", *map(str, given)]
    whole = subprocess.run([*command, "--out", tmp_path / "whole"], capture_output=True, text=True, timeout=300)
    assert whole.returncode == 0, whole.stderr

    run = subprocess.Popen([*command, "--out", tmp_path / "run"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    for kill in (max, min):  # the one that writes nothing, then the one that writes
        before = _checkpoints(tmp_path / "run")
        until = time.monotonic() + 120
        while _checkpoints(tmp_path / "run") <= before and time.monotonic() < until:
            assert run.poll() is None
            time.sleep(0.1)
        os.kill(kill(_children(run.pid)), signal.SIGKILL)
    _, err = run.communicate(timeout=300)
    assert run.returncode == 0, err.decode()
    student = Path("student") / "model.safetensors"
    assert (tmp_path / "run" / student).read_bytes() == (tmp_path / "whole" / student).read_bytes()


def _checkpoints(folder: Path) -> str:
    """Return the newest checkpoint's name, "" where there is none."""
    return max((path.name for path in folder.glob("checkpoints/step-*")), default="")


@pytest.mark.slow
def test_an_elastic_restart_goes_on_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["run", *PAIR, *SMALL, "--method", "none", "--out", tmp_path / "run"]
    assert call(*given).code == 0
    assert call(*given).code == 2
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert call(*given).code == 0
