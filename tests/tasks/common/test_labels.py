"""The order of classes that tables name."""

from __future__ import annotations

import pytest

from kdtool.tasks.common.files.labels import in_order


@pytest.mark.parametrize(
    ("names", "ordered"),
    [
        (["10", "9", "-2"], ["-2", "9", "10"]),
        (["b", "10", "a", "9"], ["9", "10", "a", "b"]),
        (["2", "1.0", "b"], ["1.0", "2", "b"]),
        (["2", "1.5"], ["2", "1.5"]),
    ],
)
def test_numbers_come_by_their_values_and_then_names(names: list[str], ordered: list[str]) -> None:
    assert in_order(names) == ordered
