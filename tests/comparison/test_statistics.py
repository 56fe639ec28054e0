"""The statistics of a comparison, against scipy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from kdtool.comparison.statistics import holm, paired, spread


def test_a_paired_difference_is_scipys_t_test() -> None:
    draw = np.random.Generator(np.random.Philox(3))
    for count in (2, 3, 5, 20):
        a, b = draw.normal(0.9, 0.02, count), draw.normal(0.89, 0.02, count)
        found = paired(dict(enumerate(a)), dict(enumerate(b)))
        test = stats.ttest_rel(a, b)
        interval = test.confidence_interval(0.95)
        assert found["mean"] == pytest.approx((a - b).mean())
        assert (found["low"], found["high"]) == pytest.approx((interval.low, interval.high))
        assert found["p"] == pytest.approx(test.pvalue)
        assert found["pairs"] == count


def test_the_interval_by_hand() -> None:
    # Differences 1, 2, 3: mean 2, deviation 1, t(2) = 4.30265.
    found = paired({0: 2.0, 1: 4.0, 2: 6.0}, {0: 1.0, 1: 2.0, 2: 3.0})
    assert (found["low"], found["high"]) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), abs=1e-5)


def test_only_seeds_that_both_have_are_paired() -> None:
    found = paired({0: 1.0, 1: 5.0, 2: 3.0}, {0: 0.0, 2: 1.0, 3: 9.0})
    assert (found["pairs"], found["mean"]) == (2, 1.5)


def test_too_few_pairs_have_no_interval() -> None:
    assert paired({0: 1.0}, {0: 0.5}) == {"pairs": 1, "mean": 0.5, "low": None, "high": None, "p": None}
    assert paired({0: 1.0}, {1: 0.5})["mean"] is None
    assert spread([]) == {"mean": None, "sd": None}
    assert spread([0.5]) == {"mean": 0.5, "sd": None}


def test_differences_that_do_not_vary() -> None:
    same = paired({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0})
    assert (same["low"], same["high"], same["p"]) == (0.0, 0.0, 1.0)
    apart = paired({0: 2.0, 1: 3.0}, {0: 1.0, 1: 2.0})
    assert (apart["low"], apart["high"], apart["p"]) == (1.0, 1.0, 0.0)


def test_holm_by_hand() -> None:
    # Sorted: 0.01 x 3, 0.02 x 2, 0.04 x 1, and never less than the one before.
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []
