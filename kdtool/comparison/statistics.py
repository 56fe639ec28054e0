"""What several seeds say: mean, deviation, and paired differences with their interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

LEVEL = 0.95


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Return mean and sample deviation (n - 1); None where there are too few values for them."""
    return {
        "mean": statistics.fmean(values) if values else None,
        "sd": statistics.stdev(values) if len(values) > 1 else None,
    }


def paired(values: Mapping[int, float], reference: Mapping[int, float]) -> dict[str, Any]:
    """Return the mean difference over the seeds that both have, with Student's interval of 95 % and two-sided p.

    Args:
        values, reference: a figure by seed.

    Returns:
        {"pairs", "mean", "low", "high", "p"}; what needs more pairs than there are is None.
    """
    differences = [values[seed] - reference[seed] for seed in sorted(values.keys() & reference.keys())]
    mean, deviation = spread(differences).values()
    found: dict[str, Any] = {"pairs": len(differences), "mean": mean, "low": None, "high": None, "p": None}
    if mean is None or deviation is None:
        return found
    from scipy.special import stdtr, stdtrit

    freedom, error = len(differences) - 1, deviation / math.sqrt(len(differences))
    half = float(stdtrit(freedom, (1 + LEVEL) / 2)) * error
    t = abs(mean) / error if error > 0 else (math.inf if mean else 0.0)
    return {**found, "low": mean - half, "high": mean + half, "p": 2 * float(stdtr(freedom, -t))}


def holm(ps: Sequence[float]) -> list[float]:
    """Return p-values that hold for all of them together: Holm, Scandinavian Journal of Statistics 6, 1979."""
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[place]))
        adjusted[place] = largest
    return adjusted
