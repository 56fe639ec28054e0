"""Two networks on the same test samples: their difference, with an interval over the samples."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdtool.engine.job import Scores
from kdtool.system.disk import write_whole

LEVEL = 0.95
Z = 1.959963984540054
"""The normal distribution's two-sided quantile of ``LEVEL``."""


FILE = "test_scores.npz"
"""What a run keeps of its student's scores, so that runs can be compared on the same samples."""

FIGURES: dict[str, Callable[[Any], Any]] = {"mean": lambda mean: mean, "exp": np.exp}


@dataclass(frozen=True)
class Rows:
    """A network's scores on the test split.

    Attributes:
        values: (R,) float64, in the order of the rows.
        figure: of ``FIGURES``: makes the metric of their mean.
        offsets: (N + 1,) int64 where each sample's rows begin; None: a sample is one row.
    """

    values: np.ndarray
    figure: str
    offsets: np.ndarray | None

    @classmethod
    def of(cls, scores: Scores, offsets: np.ndarray | None) -> Rows:
        """Return what a meter found."""
        values = scores.values[scores.index.argsort()].numpy().astype(np.float64)
        return cls(values, scores.figure, offsets)

    @classmethod
    def read(cls, run: Path) -> Rows | None:
        """Return what ``write`` wrote into a run's folder; None where it wrote nothing."""
        try:
            with np.load(run / FILE) as found:
                return cls(found["values"], str(found["figure"]), found["offsets"] if "offsets" in found else None)
        except (OSError, ValueError, KeyError):
            return None

    def write(self, run: Path) -> None:
        """Keep it in a run's folder; equal scores give equal bytes."""
        arrays: dict[str, Any] = {"values": self.values.astype(np.float32), "figure": np.array(self.figure)}
        if self.offsets is not None:
            arrays["offsets"] = self.offsets
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_whole(run / FILE, buffer.getvalue())

    @property
    def hits(self) -> bool:
        """Whether they are hits and misses."""
        return bool(np.isin(self.values, (0.0, 1.0)).all())

    def metric(self, means: Any) -> Any:
        """Return the metric that one mean makes, or each of an array."""
        return FIGURES[self.figure](means)


def difference(ours: Rows, theirs: Rows) -> dict[str, Any]:
    """Return a metric's paired difference, ours less theirs, with its interval of 95 % over the samples.

    Of hits and misses the interval is that of McNemar's table with half a pair added to each of its four cells (Agresti
    and Min, Statistics in Medicine 24, 2005), which holds for few samples and for none that the two disagree on. Of
    other scores it is the jackknife's over whole samples (Efron and Stein, 1981), since a sample's rows are alike.

    Args:
        ours, theirs: of the same rows.

    Returns:
        {"mean", "low", "high", "samples"}; the interval is None where there are too few samples for it.
    """
    mean = float(ours.metric(ours.values.mean()) - theirs.metric(theirs.values.mean()))
    offsets = np.arange(len(ours.values) + 1) if ours.offsets is None else ours.offsets
    samples = len(offsets) - 1
    found: dict[str, Any] = {"mean": mean, "low": None, "high": None, "samples": samples}
    if samples < 2:
        return found
    if ours.offsets is None and ours.hits and theirs.hits:
        won, lost = ours.values > theirs.values, ours.values < theirs.values
        low, high = _of_hits(int(won.sum()), int(lost.sum()), samples)
    else:
        half = _half(ours, theirs, offsets)
        low, high = mean - half, mean + half
    return {**found, "low": low, "high": high}


def _of_hits(won: int, lost: int, samples: int) -> tuple[float, float]:
    """Return the interval of the difference of two shares, of which ``won`` and ``lost`` pairs disagree."""
    b, c, n = won + 0.5, lost + 0.5, samples + 2
    middle, half = (b - c) / n, Z * math.sqrt(b + c - (b - c) ** 2 / n) / n
    return max(-1.0, middle - half), min(1.0, middle + half)


def _half(ours: Rows, theirs: Rows, offsets: np.ndarray) -> float:
    """Return half of the jackknife's interval over whole samples, by Student's distribution."""
    from scipy.special import stdtrit

    counts = np.diff(offsets)
    total, samples = counts.sum(), len(counts)
    left = []
    for rows in (ours, theirs):
        cumulated = np.concatenate([[0.0], np.cumsum(rows.values)])
        sums = cumulated[offsets[1:]] - cumulated[offsets[:-1]]
        left.append(rows.metric((sums.sum() - sums) / np.maximum(total - counts, 1)))
    without = left[0] - left[1]
    error = math.sqrt((samples - 1) / samples * float(((without - without.mean()) ** 2).sum()))
    return float(stdtrit(samples - 1, (1 + LEVEL) / 2)) * error
