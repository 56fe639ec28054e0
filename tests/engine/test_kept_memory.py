"""A long run takes no more memory than a short one, and its steps take none from the system anew.

Each run has a process of its own, so that nothing else takes or gives back memory in it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the resident memory from /proc")

RUN = """
import json, resource, sys
import kdtool
from kdtool.events import Reporter

class Watch(Reporter):
    resident, taken = [], []

    def epoch(self, record):
        with open("/proc/self/statm") as file:
            self.resident.append(int(file.read().split()[1]) * resource.getpagesize())
        self.taken.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt * resource.getpagesize())

watch, (out, epochs) = Watch(), sys.argv[1:]
recipe = {
    "method": "none", "student.model": "test_efficientnet", "train.epochs": int(epochs), "train.device": "cpu",
    "data.labels_per_class": 32, "out": out,
}
result = kdtool.run(recipe, reporter=watch).to_dict()
print(json.dumps([watch.resident, watch.taken, result["student"]["bytes"]]))
"""
"""Trains a student for so many epochs; prints, after each, the resident bytes and all that were taken from the system
so far, and the size of the student's file."""


def run(out: Path, epochs: int, **environment: str) -> tuple[list[int], list[int], int]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(out), str(epochs)],
        env={**clean, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    resident, taken, student = json.loads(done.stdout)
    assert len(resident) == epochs
    return resident, taken, student


@pytest.mark.slow
def test_memory_does_not_grow_with_epochs(tmp_path: Path) -> None:
    epochs = 18
    resident, _, student = run(tmp_path / "run", epochs)
    # The first epochs find their pieces. Were weights and moments kept of every epoch, it would be twice as much.
    assert resident[-1] - resident[1] < (epochs - 2) * 3 * student / 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
@pytest.mark.slow
def test_steps_use_the_memory_that_the_last_ones_freed(tmp_path: Path) -> None:
    def per_epoch(name: str, **environment: str) -> float:
        _, taken, _ = run(tmp_path / name, 6, **environment)
        return (taken[-1] - taken[1]) / 4

    # glibc's own default, which tells that somebody has settings for malloc: nothing is kept then.
    left_alone = per_epoch("left-alone", MALLOC_ARENA_TEST="8")
    assert left_alone > 8 * 2**20
    assert per_epoch("kept") < left_alone / 8
