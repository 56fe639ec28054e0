"""Runs that are really killed, at random moments, and resumed: the same bytes, and nothing left behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock

from tests.forking import Server

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

CHEAP = [
    "--teacher",
    "test_resnet",
    "--student",
    "test_resnet",
    "--device",
    "cpu",
    "--epochs",
    "3",
    "--image-size",
    "16",
]
CHEAP += ["--batch-size", "16", "data.labels_per_class=8", "data.val_fraction=0.05", "checkpoint.every_steps=2"]
CHEAP += ["teacher.train.epochs=2", "teacher.train.batch_size=256", "teacher.check=off"]
METHODS = {
    "kd": [],
    "fitnets": ["fitnets.hint_epochs=1"],
    "ft": ["ft.paraphrase_epochs=1"],
    "crd": ["train.ema=0.9"],
}


@pytest.fixture(scope="module")
def servers() -> Iterator[list[Server]]:
    """Two lanes."""
    started = [Server(), Server()]
    yield started
    for each in started:
        each.close()


def command(folder: Path, method: str) -> list[object]:
    """Return what goes on with a run, or begins it where it was killed before its recipe was written."""
    if (folder / "recipe.yaml").is_file():
        return ["run", "--resume", folder]
    return ["run", *CHEAP, "--method", method, *METHODS[method], "--out", folder]


def live(server: Server, home: Path, folder: Path, method: str, kills: list[float]) -> int:
    """Run to the end, killed after so many seconds each time; return how often it was really killed."""
    for number, delay in enumerate([*kills, None]):
        code = server.run(home, *command(folder, method), kill_after=delay)
        if code == 0:
            return number
        assert code == -signal.SIGKILL, home.with_name(home.name + ".log").read_text()[-2000:]
    raise AssertionError("killed, though nobody did")


def student(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "student").iterdir())}


def nothing_left(runs: Path, home: Path) -> None:
    """Assert that no temporary file and no lock is there, and no process."""
    assert [path for path in runs.rglob("*") if path.name.startswith(".") or path.suffix in (".tmp", ".partial")] == []
    assert [path for path in home.rglob("*") if path.suffix in (".tmp", ".partial") or path.name[0] == "."] == []
    assert list(home.rglob("checkpoints")) == []
    for lock in home.rglob("*.lock"):
        FileLock(lock).acquire(timeout=0).lock.release()
    here = f"KDTOOL_HOME={home}".encode()
    assert [p for p in Path("/proc").glob("[0-9]*/environ") if _holds(p, here)] == []


def _holds(path: Path, text: bytes) -> bool:
    try:
        return text in path.read_bytes()
    except OSError:
        return False


def killed_and_resumed(server: Server, folder: Path, method: str, kills: int) -> None:
    """Run over and over, killed at random moments, until that happened so often; compare each with the whole run."""
    whole = folder / "whole"
    began = time.monotonic()
    live(server, folder / "home", whole, method, [])
    took = time.monotonic() - began
    draw, killed, number = random.Random(f"{method} {kills}"), 0, 0
    while killed < kills:
        number += 1
        cut, home = folder / f"cut-{number}", folder / f"home-{number}"
        killed += live(server, home, cut, method, [draw.uniform(0.0, 0.9) * took for _ in range(kills - killed)])
        assert student(cut) == student(whole)
        assert (cut / "result.json").is_file()
        nothing_left(cut, home)


def test_a_run_that_is_killed_ends_with_the_same_bytes(servers: list[Server], tmp_path: Path) -> None:
    killed_and_resumed(servers[0], tmp_path, "fitnets", 2)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_killed_at_many_moments(servers: list[Server], tmp_path: Path, method: str) -> None:
    killed_and_resumed(servers[0], tmp_path, method, 8)


@pytest.mark.slow
def test_two_processes_that_are_killed(tmp_path: Path) -> None:
    environment = {**os.environ, "KDTOOL_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}

    def run(folder: Path, delay: float | None) -> tuple[int, float]:
        arguments = [*command(folder, "kd"), "--nproc", "2"]
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "kdtool", *map(str, arguments)],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            process.wait(timeout=delay)
        except subprocess.TimeoutExpired:
            process.kill()
        return process.wait(), time.monotonic() - began

    code, took = run(tmp_path / "whole", None)
    assert code == 0
    draw, killed = random.Random(2), 0
    for delay in [*(draw.uniform(0.3, 0.9) * took for _ in range(4)), None]:
        code = run(tmp_path / "cut", delay)[0]
        killed += code == -signal.SIGKILL
        for _ in range(200):  # the others learn of it by a pipe
            if not any(_holds(p, f"KDTOOL_HOME={tmp_path / 'home'}".encode()) for p in Path("/proc").glob("*/environ")):
                break
            time.sleep(0.1)
        if code == 0:
            break
    assert killed >= 2
    assert student(tmp_path / "cut") == student(tmp_path / "whole")
    nothing_left(tmp_path / "cut", tmp_path / "home")


@pytest.mark.slow
def test_two_hundred_runs_in_two_lanes_with_kills(servers: list[Server], tmp_path: Path) -> None:
    home, runs = tmp_path / "home", tmp_path / "runs"
    runs.mkdir()
    right, took = {}, {}
    for method in METHODS:
        for folder in (tmp_path / method / "first", tmp_path / method / "second"):
            began = time.monotonic()
            live(servers[0], home, folder, method, [])
            took[method] = time.monotonic() - began
        right[method] = student(folder)

    def lane(number: int) -> int:
        draw, killed = random.Random(number), 0
        for each in range(100):
            method = list(METHODS)[each % len(METHODS)]
            kills = [draw.uniform(0, 1.5) * took[method] for _ in range(draw.choice((0, 0, 1, 2)))]
            killed += live(servers[number], home, runs / f"{number}-{each}-{method}", method, kills)
        return killed

    with ThreadPoolExecutor(2) as lanes:
        killed = sum(lanes.map(lane, range(2)))
    assert killed >= 20
    done = sorted(runs.iterdir())
    assert len(done) == 200
    for folder in done:
        assert (folder / "result.json").is_file()
        assert student(folder) == right[folder.name.split("-")[2]]
    nothing_left(runs, home)
