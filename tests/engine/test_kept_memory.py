"""A long run takes no more memory than a short one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import kdtool
from kdtool.events import Reporter

STATUS = Path("/proc/self/statm")


class Resident(Reporter):
    """Notes the process's resident pages after each epoch of the student."""

    def __init__(self) -> None:
        self.pages: list[int] = []

    def epoch(self, record: Any) -> None:
        if record["phase"] == "student":
            self.pages.append(int(STATUS.read_text().split()[1]))


@pytest.mark.skipif(not STATUS.exists(), reason="reads the resident memory from /proc")
def test_memory_does_not_grow_with_epochs(tmp_path: Path) -> None:
    watch = Resident()
    recipe = {
        "method": "none", "student.model": "test_efficientnet", "train.epochs": 10, "train.device": "cpu",
        "data.labels_per_class": 64, "out": str(tmp_path / "run"),
    }  # fmt: skip
    kdtool.run(recipe, reporter=watch)
    assert len(watch.pages) == 10
    assert watch.pages[-1] <= 1.02 * watch.pages[1]
