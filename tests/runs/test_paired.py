"""The interval of a difference over the test samples, against literal readings of the papers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from kdtool.engine.job import Scores
from kdtool.runs.paired import Rows, difference
from kdtool.tasks.common.classification import ClassificationMeter
from kdtool.tasks.language.objective import TokenMeter


def table(both: int, won: int, lost: int, none: int) -> tuple[Rows, Rows]:
    ours = [1.0] * both + [1.0] * won + [0.0] * lost + [0.0] * none
    theirs = [1.0] * both + [0.0] * won + [1.0] * lost + [0.0] * none
    return Rows(np.array(ours), "mean", None), Rows(np.array(theirs), "mean", None)


@pytest.mark.parametrize("cells", [(60, 21, 10, 29), (0, 1, 0, 1), (120, 0, 0, 0), (0, 120, 0, 0)])
def test_hits_have_the_interval_of_agresti_and_min(cells: tuple[int, int, int, int]) -> None:
    found = difference(*table(*cells))
    p11, p10, p01, p00 = (cell + 0.5 for cell in cells)
    n = p11 + p10 + p01 + p00
    middle = p10 / n - p01 / n
    half = stats.norm.ppf(0.975) * math.sqrt((p10 / n + p01 / n - middle**2) / n)
    assert found["mean"] == pytest.approx((cells[1] - cells[2]) / sum(cells), abs=1e-12)
    assert found["low"] == pytest.approx(max(-1.0, middle - half), abs=1e-9)
    assert found["high"] == pytest.approx(min(1.0, middle + half), abs=1e-9)
    assert found["samples"] == sum(cells)
    assert found["low"] < found["high"]  # even where nobody disagrees


def test_a_gain_of_nine_points_on_120_images_may_be_chance() -> None:
    """And on 3,600 it is not: the same shares."""
    few, many = difference(*table(56, 25, 14, 25)), difference(*table(1680, 750, 420, 750))
    assert few["mean"] == pytest.approx(0.091667, abs=1e-6) == many["mean"]
    assert few["low"] < 0 < few["high"]
    assert many["low"] > 0.07


def test_perplexities_have_the_jackknifes_interval_over_whole_samples() -> None:
    draw = np.random.Generator(np.random.Philox(0))
    offsets = np.array([0, 3, 4, 9, 15])
    ours, theirs = draw.random(15) * 2, draw.random(15) * 2

    def perplexity(values: np.ndarray, without: int | None) -> float:
        kept = [value for sample, (a, b) in enumerate(zip(offsets, offsets[1:], strict=False)) if sample != without
                for value in values[a:b]]  # fmt: skip
        return math.exp(sum(kept) / len(kept))

    whole = perplexity(ours, None) - perplexity(theirs, None)
    left = [perplexity(ours, i) - perplexity(theirs, i) for i in range(4)]
    mean = sum(left) / 4
    half = stats.t.ppf(0.975, 3) * math.sqrt(3 / 4 * sum((each - mean) ** 2 for each in left))
    found = difference(Rows(ours, "exp", offsets), Rows(theirs, "exp", offsets))
    assert found["mean"] == pytest.approx(whole, abs=1e-9)
    assert (found["low"], found["high"]) == pytest.approx((whole - half, whole + half), abs=1e-9)
    assert found["samples"] == 4


def test_rows_are_put_in_order_and_kept(tmp_path: Path) -> None:
    rows = Rows.of(Scores(torch.tensor([2, 0, 1]), torch.tensor([1.0, 0.0, 0.5]).double(), "exp"), np.array([0, 1, 3]))
    assert rows.values.tolist() == [0.0, 0.5, 1.0]
    rows.write(tmp_path)
    first = (tmp_path / "test_scores.npz").read_bytes()
    found = Rows.read(tmp_path)
    assert found is not None
    assert (found.values.tolist(), found.figure) == ([0.0, 0.5, 1.0], "exp")
    assert found.offsets is not None
    assert found.offsets.tolist() == [0, 1, 3]
    found.write(tmp_path)
    assert (tmp_path / "test_scores.npz").read_bytes() == first
    assert Rows.read(tmp_path / "nowhere") is None


def test_meters_give_what_their_metric_is_the_mean_of() -> None:
    logits, labels = torch.randn(9, 7), torch.randint(7, (9,))
    for meter, keys in ((ClassificationMeter(7), ("top1", "top5")), (TokenMeter(), ("perplexity", "nll", "top1"))):
        meter.add(logits[5:], labels[5:], torch.arange(5, 9))
        meter.add(logits[:5], labels[:5], torch.arange(5))
        for key in keys:
            scores = meter.scores(key)
            assert scores is not None
            rows = Rows.of(scores, None)
            assert rows.metric(rows.values.mean()) == pytest.approx(meter.metrics()[key], rel=1e-12)
        assert meter.scores("macro_f1") is None
