"""Overlap and repetition against their plain definitions."""

from __future__ import annotations

import random

import pytest

from kdtool.generation.overlap import Held, near_duplicates, repetition


def shingles(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)} or {tuple(words)}


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8, 1.0])
def test_near_duplicates_are_those_of_a_comparison_of_all_pairs(threshold: float) -> None:
    draw = random.Random(0)
    texts: list[str] = []
    for _ in range(150):
        words = draw.choice(texts).split() if texts and draw.random() < 0.6 else draw.choices("abcdefgh", k=12)
        words = [draw.choice("abcdefgh") if draw.random() < 0.15 else word for word in words]
        texts.append(" ".join(words[: draw.randint(1, 12)]))
    kept: list[str] = []
    expected = []
    for text in texts:
        own = shingles(text)
        near = any(len(own & shingles(other)) / len(own | shingles(other)) >= threshold for other in kept)
        expected.append(near)
        if not near:
            kept.append(text)
    assert near_duplicates(texts, threshold) == expected
    assert 10 < sum(expected) < 140


def test_thirteen_words_in_a_row_or_all_of_a_short_item() -> None:
    item = [f"w{i}" for i in range(30)]
    held = Held([" ".join(item), "one two, three four FIVE", "a b c d"])
    assert held.shares("x " + " ".join(item[7:20]).upper() + "!")
    assert not held.shares(" ".join([*item[7:19], "x", *item[19:28]]))
    assert held.shares("so One two; three (four) five it is")
    assert not held.shares("one two three four six")
    assert not held.shares("a b c d")  # too short to tell anything


def test_repetition_is_the_share_of_runs_that_were_there() -> None:
    assert repetition("a b c d e f g h") == 0
    assert repetition("a b c") == 0
    assert repetition("go on " * 10) == pytest.approx(1 - 2 / 17)
