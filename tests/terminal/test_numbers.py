"""Figures of any metric: shares as percentages, others as they are; what is better may be less."""

from __future__ import annotations

from typing import Any

import pytest

from kdtool.events import Metric
from kdtool.terminal import numbers
from kdtool.terminal.table import gain

TOP1, PERPLEXITY = Metric(), Metric("ppl", "perplexity", larger_is_better=False, percent=False)


def test_values() -> None:
    assert numbers.value(TOP1, 0.97125) == "97.12 %"
    assert numbers.value(PERPLEXITY, 12.345) == "12.35"
    assert numbers.value(TOP1, None) == numbers.value(PERPLEXITY, None) == "-"
    assert numbers.in_cells(TOP1, 0.93, 0.01) == "93.00 ± 1.00"
    assert numbers.in_cells(PERPLEXITY, 12.34, 0.5) == "12.34 ± 0.5"
    assert numbers.difference(TOP1, -0.012) == "-1.20"
    assert numbers.difference(PERPLEXITY, -1.25) == "-1.25"


def test_readings() -> None:
    assert numbers.reading(TOP1, {"top1": 0.97125}) == "val top-1 97.12 %"
    assert numbers.reading(PERPLEXITY, {"ppl": 20.0, "top1": 0.5}) == "val perplexity 20"
    assert numbers.reading(TOP1, None) == numbers.reading(TOP1, {}) == ""


@pytest.mark.parametrize(
    ("metric", "found", "sentence"),
    [
        (TOP1, 1.5, "gains 1.50 points of top-1"),
        (TOP1, -1.5, "loses 1.50 points of top-1"),
        (TOP1, 0.001, "made no difference: the student reaches the same top-1"),
        (PERPLEXITY, PERPLEXITY.gain(18.0, 20.0), "gains 2 of perplexity"),
        (PERPLEXITY, PERPLEXITY.gain(20.0, 18.5), "loses 1.5 of perplexity"),
    ],
)
def test_gains(metric: Metric, found: float, sentence: str) -> None:
    result: dict[str, Any] = {"metric": metric.to_dict(), "gain": found}
    assert sentence in gain(result)
    assert gain({"metric": metric.to_dict()}) == ""


def test_the_gain_of_an_older_run() -> None:
    assert "gains 1.50 points of top-1" in gain({"gain_points": 1.5})


@pytest.mark.parametrize("found", [0.0, -0.0, -0.004, 0.004])
def test_no_gain_has_no_minus(found: float) -> None:
    assert numbers.gain(Metric(), found) == "+0.00 points"
