"""What a run tells its process's processor and memory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import kdtool


def test_a_run_flushes_denormals() -> None:
    torch.set_flush_denormal(False)
    smallest, less = torch.full((64,), 2.0**-126), torch.full((64,), 0.5)
    assert (smallest * less > 0).all()
    kdtool.run({"method": "none", "student": "test_efficientnet", "train.epochs": 1}, dry_run=True)
    assert (smallest * less == 0).all()
    assert (smallest * 2 > 0).all()


FAULTS = """
import resource, torch
from kdtool.engine.host import keep_freed_memory
keep_freed_memory()
torch.zeros(32 * 2**20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.zeros(16 * 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
"""Prints how many pages 64 MiB take from the system where twice as much has just been freed."""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_freed_memory_is_kept_unless_the_environment_says_how() -> None:
    def pages(**settings: str) -> int:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
        done = subprocess.run(
            [sys.executable, "-c", FAULTS], env={**clean, **settings}, capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    assert pages() < 100
    assert pages(MALLOC_MMAP_THRESHOLD_="131072") > 10  # huge pages may make them few
