"""Tables on screens of all widths: no word and no number is broken."""

from __future__ import annotations

import io
from importlib import import_module
from typing import Any

import pytest
from rich.console import Console

from kdtool.tasks.prediction import Prediction
from kdtool.terminal import methods, prediction, tasks
from kdtool.terminal.grid import Grid, fitted, wrapped
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


NETWORK = {
    "part": "teacher", "name": "convnext_tiny.in12k_ft_in1k", "params": 28_600_000, "macs": 4_456_000_000,
    "input": "3x224x224", "note": "",
    "stages": [
        {"stage": 4, "module": "stages.3.blocks.2.shortcut", "shape": [768, 7, 7], "stride": 32, "params": 15_800_000,
         "macs": 1_200_000_000},
    ],
}  # fmt: skip
TAP = {"layer": "stages.3.blocks.2.shortcut", "shape": [1024, 768, 7, 7]}
PARTS = ("teacher", "student", "method", "backward")
INSPECTED = {
    "networks": [NETWORK, {**NETWORK, "part": "student"}], "problem": None, "method": "fitnets", "sample": None,
    "pairs": [{"role": "regressed hint", "teacher_number": 0, "student": TAP, "teacher": TAP}],
    "steps": [
        {"stage": "distil", "terms": ["hint", "task"], "macs": dict.fromkeys(PARTS, 123_000_000),
         "alignments": [{"operation": "pooled", "from": [768, 14, 14], "to": [768, 7, 7]}] * 2},
    ],
    "batch_size": 64, "unit": "images", "lengths": None, "notes": [], "method_params": 0, "tap_bytes": 1_000_000,
}  # fmt: skip
SPEED = [{"batch_size": size, "median_ms": 1234.5, "p95_ms": 2345.6, "samples_per_s": 98_765.0} for size in (1, 8, 64)]
PROFILED = {
    "machine": {"processor": "a processor", "device": "cpu", "threads": 8},
    "rows": [
        {**NETWORK, "bytes": 114_400_000, "unit": "images", "speed": SPEED,
         "memory": {"bytes": dict.fromkeys(("1", "8", "64"), 123_456_789)}},
    ],
}  # fmt: skip
BENCHED = {
    "machine": {"device": "cpu", "threads": 8, "torch": "2.9.0"},
    "pair": {"teacher": ["resnet50"], "student": "mobilenetv3_large_100", "batch_size": 64, "data": "photos"},
    "rows": [
        {"stage": "distil", "precision": "fp32", "source": "teacher live", "floor_ms": 123.456, "engine_ms": 124.567,
         "ratio_range": [1.0012, 1.0345], "images_per_s": 98765.4, "what limits it": "the student's backward pass"},
    ],
}  # fmt: skip


@pytest.mark.parametrize("width", [80, 60])
@pytest.mark.parametrize(
    ("command", "found", "cells"),
    [
        (
            "inspection",
            INSPECTED,
            ["stages.3.blocks.2.shortcut", "1024x768x7x7", "pooled 768x14x14 to 768x7x7"],
        ),
        (
            "profile",
            PROFILED,
            ["convnext_tiny.in12k_ft_in1k", "1234.50 ms (2345.60)", "98765", "114.4 MB"],
        ),
        ("bench", BENCHED, ["teacher live", "123.456", "1.0012 .. 1.0345", "the student's backward pass"]),
    ],
)
def test_other_commands_break_no_cell(
    command: str, found: Any, cells: list[str], width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    stream = io.StringIO()
    import_module(f"kdtool.terminal.{command}").show(found, stream)
    lines = stream.getvalue().splitlines()
    for cell in cells:
        assert any(cell in line for line in lines), (cell, lines)
    assert all(len(line.rstrip()) <= width for line in lines if "cpu" not in line)


PROSE = "kdtool.tests: relates the samples of a whole batch, whose size matters (distance_weight, angle_weight)"


@pytest.mark.parametrize("width", [160, 80, 60, 40])
def test_prose_is_wrapped_between_words_only(width: int) -> None:
    rows = [["rkd.distance_weight", "25.0", "a list of numbers, or null", PROSE], ["rkd.p", "2", "an integer", "short"]]
    stream = io.StringIO()
    grid = Grid(("option", "default", "type", "help"), rows, title="options")
    Console(file=stream, width=width, highlight=False).print(wrapped(grid, 2, width))
    found = stream.getvalue()
    assert all(len(line.rstrip()) <= width for line in found.splitlines())
    for word in " ".join([*rows[0], *rows[1], *grid.titles]).split():
        assert word in found.split(), (word, found)
    assert ("┏" in found) == (width >= 80)


@pytest.mark.parametrize("show", [lambda to: methods.show_method("rkd", to), tasks.show_list], ids=["show", "tasks"])
def test_what_is_known_of_methods_and_tasks_fits_80_columns(show: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {}
    for width in (80, 1000):
        monkeypatch.setenv("COLUMNS", str(width))
        stream = io.StringIO()
        show(stream)
        texts[width] = stream.getvalue()
    assert all(len(line) <= 80 for line in texts[80].splitlines())
    whole = {word for word in texts[1000].split() if word.isascii()}
    assert len(whole) > 20
    assert whole <= set(texts[80].split())


def predicted(*found: Prediction, columns: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(columns))
    stream = io.StringIO()
    writer = prediction.AsTable(stream)
    for each in found:
        writer.add(each)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_a_prediction_that_its_column_would_break_stands_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    path, name = "photos of 2026/from_the_telephone/IMG_20260412_174503_HDR.jpg", "boxer_of_germany_fawn_coloured"
    long = Prediction(path, None, path, [(name, 0.9), ("pug", 0.1)])
    short = Prediction("a.jpg", None, "a.jpg", [("pug", 0.75)])
    found = predicted(short, long, columns=80, monkeypatch=monkeypatch)
    assert found[0].split() == ["class", "p", "input"]
    assert found[1].split() == ["pug", "75.00", "%", "a.jpg"]
    assert path in found
    assert [line.split() for line in found[3:]] == [[name, "90.00", "%"], ["pug", "10.00", "%"]]
    assert predicted(long, columns=80, monkeypatch=monkeypatch)[:2] == [found[0], path]
    wide = predicted(Prediction(path, None, path, [("pug", 0.9)]), columns=120, monkeypatch=monkeypatch)
    assert wide[1].split()[:3] == ["pug", "90.00", "%"]
    assert wide[1].endswith(path)
