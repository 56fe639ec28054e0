"""A comparison at its real size, killed and resumed; and one on a local Ray."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.compare.small import SETTINGS, Process, compare, students, values, without_costs
from tests.running import call

SIX = ["--methods", "none,kd,fitnets,rkd,at,sp", "--seeds", "3", "--jobs", "2", "--epochs", "3"]


@pytest.mark.slow
def test_six_methods_three_seeds_killed_and_resumed_equal_the_uninterrupted(tmp_path: Path) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "c"
    done = compare(whole, *SIX)
    assert done.code == 0, done.err
    first = Process(*SETTINGS, *SIX, "--out", folder)
    first.stop_when("*/kd/seed-0/checkpoints/*", folder, signal.SIGKILL)
    for method in ("rkd", "sp"):
        Process("--resume", folder).stop_when(f"*/{method}/seed-1/checkpoints/*", folder, signal.SIGKILL)
    last = call("compare", "--resume", folder, "--json")
    assert last.code == 0, last.err
    assert without_costs(folder) == without_costs(whole)
    assert students(folder) == students(whole)
    assert len(students(folder)) == 18
    assert len(json.loads(last.out)["rows"]) == 6


@pytest.mark.slow
def test_runs_on_a_local_ray_equal_those_in_lanes(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    two = ["--methods", "none,kd", "--seeds", "1", "--jobs", "2", "--epochs", "2"]
    here, there = tmp_path / "here", tmp_path / "there"
    assert compare(here, *two).code == 0
    done = compare(there, *two, "--on", "ray")
    assert done.code == 0, done.err + done.out
    assert students(there) == students(here)
    assert [run["top1"] for run in values(there)["runs"]] == [run["top1"] for run in values(here)["runs"]]
