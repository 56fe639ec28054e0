"""Numbers and names as people read them."""

from __future__ import annotations

import pytest

from kdtool.terminal import words


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, "-"),
        (0, "0"),
        (999, "999"),
        (1000, "1 k"),
        (25557032, "25.6 M"),
        (999_600_000, "1000 M"),
        (4.1e9, "4.1 G"),
    ],
)
def test_count(number: float | None, text: str) -> None:
    assert words.count(number) == text


@pytest.mark.parametrize(
    ("number", "text"), [(None, "-"), (12, "12 B"), (1500, "1.5 kB"), (17_200_000, "17.2 MB"), (2e9, "2.0 GB")]
)
def test_size(number: float | None, text: str) -> None:
    assert words.size(number) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (65.4, "1:05"), (3725, "1:02:05"), (-3, "0:00")])
def test_duration(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


def test_terms() -> None:
    assert words.loss_terms({"kl": 0.25, "task": 1.5, "total": 1.75}) == "loss 1.75 (kl 0.25, task 1.5)"
    assert words.loss_terms({"kl": 0.25}) == "kl 0.25"
    assert words.loss_terms({"total": 2.0}) == "loss 2"


def test_names_cannot_steer_the_terminal() -> None:
    assert words.clean("caf\u00e9 \u732b") == "caf\u00e9 \u732b"
    assert words.clean("a\x1b[2Jb\nc\x00") == "a\\x1b[2Jb\\nc\\x00"
