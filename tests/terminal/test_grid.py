"""Tables on screens of all widths: no word and no number is broken."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from kdtool.terminal.grid import Grid, fitted
from kdtool.terminal.table import show
from tests.terminal.runs import RESULT

NAMES = ["resnet50.a1_in1k", "mobilenetv3_large_100", "mobilenetv3_large_100"]
TITLES = ["", "network", "top-1", "top-5", "macro recall", "macro F1", "parameters", "MACs", "file size"]
FIGURES = ["97.50 %", "100.00 %", "97.00 %", "97.10 %", "25.6 M", "4.1 G", "102.0 MB"]
ROWS = [[part, name, *FIGURES] for part, name in zip(("teacher", "student", "baseline"), NAMES, strict=True)]


def lines(grid: Grid, width: int) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=width, highlight=False).print(fitted(grid, width))
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("width", [160, 100, 80, 60, 40])
def test_every_cell_stands_whole_on_a_line_that_fits(width: int) -> None:
    found = lines(Grid(TITLES, ROWS, 2, "test split", 1), width)
    assert all(len(line.rstrip()) <= width for line in found)
    for cell in [*TITLES, *NAMES, *FIGURES]:
        assert any(cell in line for line in found), (cell, found)


def test_a_table_that_is_too_wide_is_turned() -> None:
    found = lines(Grid(TITLES, ROWS, 2), 80)
    assert found[0].split() == ["teacher", "student", "baseline"]
    assert found[1].split() == ["network", *NAMES]
    assert lines(Grid(TITLES, ROWS, 2), 120)[0].startswith("┏")
    assert lines(Grid(TITLES, ROWS, 2), 40)[0].split() == ["teacher"]


@pytest.mark.parametrize("width", [80, 60])
def test_the_line_that_opens_the_student_can_be_pasted(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    line = "timm.create_model('local-dir:runs/resnet50-mobilenetv3_large_100-fitnets-12/student', pretrained=True)"
    stream = io.StringIO()
    show({**RESULT, "student": {**RESULT["student"], "open_with": line}}, stream)
    assert line in stream.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 60, 200])
def test_a_command_that_is_advised_can_be_pasted(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    line = "kdtool compare 'runs/my photos of 2026/recipe.yaml' --methods none,rkd+kd --tune 20"
    stream = io.StringIO()
    show({**RESULT, "says": [f"`kdtool show rkd` lists the options: of it, this searches them: {line}"]}, stream)
    found = stream.getvalue().splitlines()
    assert (line in found) == (width < 200)
    assert any(line in each for each in found)
