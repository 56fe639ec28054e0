"""The tables at the end."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest

from kdtool.terminal.table import gain, rows, show
from tests.terminal.runs import DRY_RUN, RESULT


def shown(result: dict[str, Any]) -> str:
    stream = io.StringIO()
    show(result, stream)
    return stream.getvalue()


def changed(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(RESULT), **changes}


def test_one_line_a_network_with_all_columns() -> None:
    text = shown(RESULT)
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
    assert lines == [
        ["teacher", "big[bold]net", "99.00 %", "100.00 %", "98.50 %", "98.60 %", "25.6 M", "4.1 G", "102.0 MB"],
        ["student", "small", "97.50 %", "99.95 %", "97.00 %", "97.10 %", "4.2 M", "217 M", "17.2 MB"],
        ["baseline", "small", "96.25 %", "99.80 %", "96.00 %", "96.10 %", "4.2 M", "217 M", "17.2 MB"],
    ]
    assert "gains 1.25 points of top-1 over training alone" in text
    assert "All of it is in runs/[red]x[/red]" in text


def test_columns_without_numbers_are_left_out() -> None:
    result = changed()
    for metrics in result["test"].values():
        metrics["top5"] = None
    text = shown(result)
    assert "top-5" not in text
    assert "macro F1" in text


def test_several_teachers_have_a_line_each() -> None:
    result = changed(teacher=[{"name": "a"}, {"name": "b"}])
    result["test"]["teacher"] = [{"top1": 0.5}, {"top1": 0.25}]
    assert [(row.part, row.network["name"]) for row in rows(result)][:2] == [("teacher 1", "a"), ("teacher 2", "b")]


@pytest.mark.parametrize(
    "result",
    [{}, {"test": None}, {"test": {"student": {"top1": 0.5}, "teacher": None}, "teacher": None}, changed(student=None)],
)
def test_what_is_missing_does_no_harm(result: dict[str, Any]) -> None:
    assert "top-1" in shown(result)


@pytest.mark.parametrize(
    ("points", "words"), [(None, ""), (1.25, "gains 1.25 points"), (-0.5, "loses 0.50 points"), (0.0, "no difference")]
)
def test_the_gain_as_a_sentence(points: float | None, words: str) -> None:
    sentence = gain({"gain_points": points})
    assert words in sentence
    assert bool(sentence) == bool(words)


def test_a_dry_run_shows_recipe_networks_taps_and_stages() -> None:
    text = shown(DRY_RUN)
    assert text.index("ant") < text.index("25.6 M") < text.index("about 1:05") < text.index("method: m\ntrain:\n")
    assert text.endswith("method: m\ntrain:\n  epochs: 3\n")
    assert "warning: 2 of 9 test images" in text
    assert "dataset/train" in text
    for words in ("25.6 M", "4.1 G", "(64, 8, 8)", "(8, 4, 4)", "(16, 2, 2)", "(5)", "teacher 1", "distill", "44"):
        assert words in text
    assert "nothing was trained" in text
