"""A comparison's table on narrow and on wide screens."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from kdtool.terminal.compare_table import tables

METHODS = ["none", "kd", "adversarial"]
STUDENTS = ["mobilenetv3_large_100", "resnet10t"]


def document(seeds: int = 3, device: int | None = None) -> dict[str, Any]:
    """A comparison of which ``seeds`` of three are done."""
    none = {"pairs": 0, "mean": None, "low": None, "high": None}
    gained = {"pairs": 3, "mean": 0.0102, "low": -0.1, "high": 0.1204} if seeds > 1 else none
    reached = {"mean": 0.9304, "sd": 0.1071} if seeds > 1 else {"mean": None, "sd": None}
    cost = {"seconds": 1234.5, "host_bytes": 1_130_000_000, "device_bytes": device} if seeds > 1 else {
        "seconds": None, "host_bytes": None, "device_bytes": None}  # fmt: skip
    figures = {method: {**reached, "difference": None if method == "none" else gained} for method in METHODS}
    rows = [
        {"student": student, "method": method, "seeds": seeds, "failed": [], "cost": cost,
         "best": figures[method], "last": figures[method]}
        for student in STUDENTS for method in METHODS
    ]  # fmt: skip
    return {"data": {"name": "digits"}, "reference": "none", "selected": "best", "seeds": [0, 1, 2],
            "students": STUDENTS, "rows": rows, "runs": []}  # fmt: skip


def shown(values: dict[str, Any], width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(tables(values, width))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("values", [document(), document(2), document(0), document(3, 2_000_000_000)])
@pytest.mark.parametrize("width", [80, 100, 120])
def test_every_row_stands_on_one_line_that_fits(values: dict[str, Any], width: int) -> None:
    lines = shown(values, width)
    assert all(len(line.rstrip()) <= width for line in lines)
    for method in METHODS:
        assert sum(re.match(rf"{method} +[\d-]", line) is not None for line in lines) == len(STUDENTS)
    assert [line.strip() for line in lines if line.strip() in STUDENTS] == STUDENTS
    assert not any("…" in line for line in lines)


def test_what_stands_in_a_row() -> None:
    assert "adversarial   93.04 ± 10.71   +1.02 ± 11.02   93.04 ± 10.71   +1.02 ± 11.02   1234.5   1130" in shown(
        document(), 120
    )
    assert any(" ".join(line.split()).startswith("kd 2/3 93.04 ± 10.71 +1.02") for line in shown(document(2), 120))
    assert any(line.split()[:3] == ["kd", "0/3", "-"] for line in shown(document(0), 80))


def test_a_narrower_screen_has_time_and_memory_below() -> None:
    said = " ".join(" ".join(shown(document(), 76)).split())
    assert said.count("a run takes: none 1234.5 s, 1.1 GB; kd 1234.5 s, 1.1 GB;") == len(STUDENTS)
    assert "GPU" in "".join(shown(document(3, 2_000_000_000), 120))
