"""Latency and throughput, measured in turns so that a noisy machine disturbs all networks alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

WARM_UP, LEAST, TURN = 3, 10, 5
"""Runs before the clock counts, fewest runs that count, and runs of one network before the next has its turn."""


def in_turns(
    runs: Sequence[Callable[[], object]], seconds: float, device: torch.device | None = None
) -> list[list[float]]:
    """Return for each function the seconds of each of its calls.

    Args:
        runs: what to time; each gets as many calls as take ``seconds``, and at least ``LEAST``.
        seconds: of timed calls a function.
        device: one whose work is waited for.
    """
    for run in runs:
        for _ in range(WARM_UP):
            _timed(run, device)
    found: list[list[float]] = [[] for _ in runs]
    unfinished = list(range(len(runs)))
    while unfinished:
        for each in unfinished:
            found[each] += [_timed(runs[each], device) for _ in range(TURN)]
        unfinished = [each for each in unfinished if sum(found[each]) < seconds or len(found[each]) < LEAST]
    return found


def _timed(run: Callable[[], object], device: torch.device | None) -> float:
    began = time.perf_counter()
    run()
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def summary(seconds: Sequence[float], batch_size: int) -> dict[str, Any]:
    """Return median and 95th percentile in ms, samples a second at the median, and the number of runs."""
    median, p95 = np.percentile(seconds, [50, 95])
    return {
        "batch_size": batch_size,
        "median_ms": 1000 * float(median),
        "p95_ms": 1000 * float(p95),
        "samples_per_s": batch_size / float(median),
        "runs": len(seconds),
    }
