"""What a run says of its figures."""

from __future__ import annotations

from typing import Any

import pytest

from kdtool.events import Metric
from kdtool.recipe import load as recipes
from kdtool.runs.verdict import guessed, sentences

RECIPE = recipes.from_dict({"method": "kd", "teacher": "resnet50", "optim.lr": 50.0, "train.epochs": 3})
PERPLEXITY = Metric("perplexity", "perplexity", larger_is_better=False, percent=False)


def result(
    student: float, alone: float | None, reached: float, low: float, high: float, metric: Metric, **more: Any
) -> dict[str, Any]:
    gain = metric.gain(student, alone) if alone is not None else None
    difference = {"mean": student - alone, "low": low, "high": high, "samples": 120} if alone is not None else None
    return {
        "metric": metric.to_dict(), "method": "kd", "folder": "runs/a b", "unit": "images", "steps": 90, "chain": [],
        "data": {"test": 120}, "gain": gain, "difference": difference, "chance": 0.5 if metric.percent else 300.0,
        "teacher": {"name": "resnet50", "weights": "pretrained", "trained": True},
        "test": {"student": {metric.key: student}, "baseline": None if alone is None else {metric.key: alone},
                 "teacher": {metric.key: reached}},
        **more,
    }  # fmt: skip


def said(*given: Any, **more: Any) -> str:
    return "\n".join(sentences(result(*given, **more), RECIPE, online=False))


def test_a_gain_comes_with_its_interval_and_the_way_to_more_seeds() -> None:
    text = said(0.8, 0.7083, 0.9, -0.002, 0.182, Metric())
    assert "gains 9.17 points of top-1 over training alone" in text
    assert "over the 120 test images the 95% interval of the gain is -0.20 to +18.20 points, which holds zero" in text
    assert "teacher resnet50 reaches top-1 90.00 %, +19.17 points over the student trained alone" in text
    assert "kdtool compare 'runs/a b/recipe.yaml' --methods none,kd --seeds 5" in text
    assert "guessing" not in text
    assert "excludes zero" in said(0.8, 0.7083, 0.9, 0.01, 0.182, Metric())


def test_of_a_perplexity_less_is_a_gain() -> None:
    text = said(20.0, 25.0, 15.0, -7.0, -3.0, PERPLEXITY)
    assert "gains 5 of perplexity" in text
    assert "the gain is +3 to +7, which excludes zero" in text
    assert "reaches perplexity 15, +10 over the student trained alone" in text
    text = said(300.0, 310.0, 400.0, -20.0, 5.0, PERPLEXITY)
    assert (
        "The student cannot be told from guessing: perplexity 300 on 120 test images, where guessing gives 300" in text
    )
    assert "no more than the student trained alone (310): it has little to teach" in text


def test_a_loss_says_what_to_change() -> None:
    text = said(0.7, 0.7917, 0.9, -0.18, 0.0, Metric())
    assert "loses 9.17 points" in text
    assert "kdtool show kd" in text
    assert "kdtool compare 'runs/a b/recipe.yaml' --methods none,kd --tune 20" in text.splitlines()[2]
    assert "kdtool show" not in said(0.7, 0.7917, 0.5, -0.18, 0.0, Metric())  # it is the teacher that is at fault


def test_guessing_is_called_so() -> None:
    text = said(0.5, 0.5, 0.9, -0.1, 0.1, Metric())
    assert (
        "The student cannot be told from guessing: top-1 50.00 % on 120 test images, where guessing gives 50.00 %"
        in text
    )
    assert "--tune" not in said(0.5, 0.52, 0.9, -0.1, 0.1, Metric())
    assert "too fast (optim.lr=50) or too little (train.epochs=3, 90 steps)" in text
    text = said(0.8, 0.55, 0.9, 0.1, 0.3, Metric())
    assert "The student trained alone cannot be told from guessing" in text
    assert "the budget is small, not that the method is good" in text


def test_advice_on_a_teacher_follows_its_weights() -> None:
    trained = said(0.7, 0.8, 0.75, -0.2, 0.0, Metric())
    assert "Train it longer (teacher.train.epochs is " in trained
    given = {"name": "resnet50", "weights": "file:mine.pth", "trained": False}
    text = said(0.7, 0.8, 0.75, -0.2, 0.0, Metric(), teacher=given)
    assert "Its weights are those of mine.pth: check" in text
    assert "teacher.train.epochs" not in text


def test_without_a_baseline_nothing_is_claimed() -> None:
    assert "--baseline trains the student alone" in said(0.8, None, 0.9, 0, 0, Metric())
    assert sentences(result(0.8, None, 0.9, 0, 0, Metric(), method="none"), RECIPE, online=False) == []


def test_peers_are_no_teachers() -> None:
    text = "\n".join(sentences(result(0.7, 0.8, 0.75, -0.2, 0.0, Metric()), RECIPE, online=True))
    assert "resnet50" not in text


@pytest.mark.parametrize(
    ("value", "chance", "samples", "is_guess"),
    [(0.12, 0.1, 100, True), (0.3, 0.1, 100, False), (0.12, 0.1, 10_000, False), (0.9, None, 10, False)],
)
def test_what_counts_as_guessing(value: float, chance: float | None, samples: int, is_guess: bool) -> None:
    assert guessed(Metric(), value, chance, samples) == is_guess


def test_where_all_is_right_no_teacher_is_blamed() -> None:
    text = said(1.0, 1.0, 1.0, -0.02, 0.02, Metric())
    assert "nothing is left to gain on this test split" in text
    assert "Train it longer" not in text


def test_a_teacher_of_other_rows_is_compared_with_nobody() -> None:
    apart = {"name": "words", "weights": "pretrained", "trained": False, "apart": True}
    for reached in (15.0, 400.0):
        text = said(300.0, 310.0, reached, -20.0, 5.0, PERPLEXITY, teacher=apart)
        assert "figures of teacher words are of rows of its own" in text
        assert "over the student trained alone" not in text
        assert "little to teach" not in text
    assert "What may help" not in said(320.0, 310.0, 15.0, 5.0, 20.0, PERPLEXITY, teacher=apart, chance=None)
    assert "What may help" in said(320.0, 310.0, 15.0, 5.0, 20.0, PERPLEXITY, chance=None)
