"""A comparison at its real size, killed and resumed; and one on a local Ray."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.comparison.small import SETTINGS, Process, compare, students, values, without_costs
from tests.running import call

SIX = ["--methods", "none,kd,fitnets,rkd,at,sp", "--seeds", "3", "--jobs", "2", "--epochs", "3"]
TWO = ["--methods", "none,kd", "--seeds", "1", "--jobs", "2", "--epochs", "4"]


def killed(process: Process, pattern: str, folder: Path) -> None:
    """Kill the comparison once a file is there; its workers go with it."""
    process.stop_when(pattern, folder, signal.SIGKILL)
    assert process.process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_six_methods_three_seeds_killed_and_resumed_equal_the_uninterrupted(tmp_path: Path) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "c"
    done = compare(whole, *SIX)
    assert done.code == 0, done.err
    killed(Process(*SETTINGS, *SIX, "--out", folder), "*/kd/seed-0/checkpoints/*", folder)
    for method in ("rkd", "sp"):
        killed(Process("--resume", folder), f"*/{method}/seed-1/checkpoints/*", folder)
    if sys.platform == "linux":
        _kill_one_run(folder)
    last = call("compare", "--resume", folder, "--json")
    assert last.code == 0, last.err
    assert without_costs(folder) == without_costs(whole)
    assert students(folder) == students(whole)
    assert len(students(folder)) == 18
    assert len(json.loads(last.out)["rows"]) == 6


def _kill_one_run(folder: Path) -> None:
    """Go on, and kill the newest of the workers' processes, as a machine that is out of memory does; others go on."""
    process = Process("--resume", folder)
    process.wait_for("*/kd/seed-2/checkpoints/*", folder)
    os.kill(
        max(pid for pid, command in process.descendants().items() if "comparison.worker" in command), signal.SIGKILL
    )
    said = process.said()
    assert process.process.returncode == 3
    assert "1 of 18 runs failed" in said
    assert "ended by SIGKILL. It may have run out of memory" in said
    assert len(students(folder)) == 17


@pytest.mark.slow
def test_runs_on_a_local_ray_equal_those_in_lanes(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="no Ray here: pip install 'kdtool[ray]'")
    here, there = tmp_path / "here", tmp_path / "there"
    assert compare(here, *TWO).code == 0
    done = compare(there, *TWO, "--on", "ray")
    assert done.code == 0, done.err + done.out
    assert students(there) == students(here)
    assert [run["top1"] for run in values(there)["runs"]] == [run["top1"] for run in values(here)["runs"]]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for Ray's worker in /proc")
def test_a_run_whose_ray_worker_dies_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="no Ray here: pip install 'kdtool[ray]'")
    here, there = tmp_path / "here", tmp_path / "there"
    assert compare(here, *TWO).code == 0
    process = Process(*SETTINGS, *TWO, "--on", "ray", "--out", there)
    process.wait_for("*/kd/seed-0/checkpoints/*", there)
    workers = [pid for pid, command in process.descendants().items() if command.startswith("ray::_perform")]
    assert workers
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    said = process.said()
    assert process.process.returncode == 0, said
    assert students(there) == students(here)
    assert without_costs(there)["rows"] == without_costs(here)["rows"]
