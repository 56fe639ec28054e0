"""Two things timed in turn, A B A B: what a noisy machine does to one it does to the other."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from math import comb
from typing import Any

LEVEL = 0.95


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median and the ends of its sign-test interval, of at least 95 % where there are six or more values.

    With fewer the interval is their whole range: of five it holds the median of what they are drawn from with 94 %.
    """
    ordered, count = sorted(values), len(values)
    cut = 0
    while cut + 1 <= (count - 1) // 2 and 1 - 2 * sum(comb(count, i) for i in range(cut + 2)) / 2**count >= LEVEL:
        cut += 1
    return statistics.median(ordered), ordered[cut], ordered[count - 1 - cut]


def compare(samples: int, floor_s: Sequence[float], engine_s: Sequence[float]) -> dict[str, Any]:
    """Return the figures of pairs of blocks of ``samples`` samples each."""
    shares = [floor / engine for floor, engine in zip(floor_s, engine_s, strict=True)]
    share, low, high = median_interval(shares)
    return {
        "samples_per_s": round(samples / statistics.median(engine_s), 1),
        "floor_samples_per_s": round(samples / statistics.median(floor_s), 1),
        "share_of_floor": round(share, 4),
        "interval": [round(low, 4), round(high, 4)],
        "pairs": len(shares),
    }
