"""The tables at the end: what a run reached, and what a dry run found."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from kdtool.events import Metric, several
from kdtool.recipe.yaml_file import dump
from kdtool.terminal import data_report, numbers, words
from kdtool.terminal.grid import Grid, fitted

_PIPE_WIDTH = 120
"""Columns of a table that goes to a file or a pipe, where rich would assume 80 and wrap."""


_SHARES = (("top-1", "top1"), ("top-5", "top5"), ("macro recall", "macro_recall"), ("macro F1", "macro_f1"))
"""Further figures of a classification; shown where they are not the run's own metric."""


_COMMAND = ": kdtool "
"""What a command at the end of a sentence begins with."""


@dataclass(frozen=True)
class Row:
    """One network's line: its part in the run, what it is, how well it does on the test split."""

    part: str
    network: Mapping[str, Any]
    test: Mapping[str, Any]


def show(result: Mapping[str, Any], stream: TextIO) -> None:
    """Print the tables of a finished run, or of a dry run, to ``stream``."""
    console = Console(file=stream, highlight=False, width=width_for(stream))
    if result.get("dry_run"):
        _show_dry_run(result, console)
    else:
        _show_result(result, console)


def width_for(stream: TextIO) -> int | None:
    """Return the columns of a table in ``stream``; None: as wide as the terminal, or as COLUMNS says."""
    return None if stream.isatty() or "COLUMNS" in os.environ else _PIPE_WIDTH


def rows(result: Mapping[str, Any]) -> list[Row]:
    """Return the table's lines: teachers, student, baseline, further predictions; only those with a test result."""
    test = result.get("test") or {}
    found = []
    teachers, tests = several(result.get("teacher")), several(test.get("teacher"))
    for (part, network), reached in zip(words.numbered(teachers), tests, strict=False):
        found.append(Row(part, network, reached))
    student = result.get("student") or {}
    for part in ("student", "baseline"):
        if test.get(part):
            found.append(Row(part, student, test[part]))
    found += [Row(part, {}, reached) for part, reached in (test.get("predictions") or {}).items()]
    return [row for row in found if row.test]


def gain(result: Mapping[str, Any], over: str = "") -> str:
    """Return the student's gain as a sentence that ends in ``over``; "" without a baseline."""
    metric = Metric.of(result)
    gained = result.get("gain", result.get("gain_points"))
    if gained is None:
        return ""
    if abs(gained) < (0.005 if metric.percent else 1e-9):
        same = f"the student reaches the same {metric.label} as alone, on the same budget and seed"
        return f"Distilling made no difference: {same}{over}."
    verb = "gains" if gained > 0 else "loses"
    by = f"{abs(gained):.2f} points" if metric.percent else f"{abs(gained):.4g}"
    return f"The student {verb} {by} of {metric.label} over training alone on the same budget and seed{over}."


def _show_result(result: Mapping[str, Any], console: Console) -> None:
    lines = rows(result)
    metric = Metric.of(result)
    more = [(title, key) for title, key in _SHARES if key != metric.key and any(row.test.get(key) is not None
            for row in lines)]  # fmt: skip
    titles = ["", "network", metric.label, *(title for title, _ in more), "parameters", "MACs", "file size"]
    cells = []
    for row in lines:
        figures = [
            numbers.value(metric, row.test.get(metric.key)),
            *(words.percent(row.test.get(key)) for _, key in more),
        ]
        shape = [words.count(row.network.get("params")), words.count(row.network.get("macs"))]
        name = words.clean(row.network.get("name") or "-")
        cells.append([words.clean(row.part), name, *figures, *shape, words.size(row.network.get("bytes"))])
    main = next((number for number, row in enumerate(lines) if row.part == "student"), None)
    console.print(fitted(Grid(titles, cells, 2, "test split", main), console.width))
    for sentence in result.get("says") or [each for each in [gain(result)] if each]:
        _say(words.clean(sentence), console)
    if result.get("folder"):
        console.print(Text(f"All of it is in {words.clean(result['folder'])}"), soft_wrap=True)
    if opening := (result.get("student") or {}).get("open_with"):
        console.print(Text("Open the student, in Python:"))
        console.print(Text(words.clean(opening)), soft_wrap=True)


def _say(sentence: str, console: Console) -> None:
    """Print a sentence; where it does not fit, a command at its end stands whole on a line of its own, to be pasted."""
    text, colon, command = sentence.rpartition(_COMMAND)
    if not colon or cell_len(sentence) <= console.width:
        console.print(Text(sentence))
        return
    console.print(Text(f"{text}:"))
    console.print(Text(f"kdtool {command}"), soft_wrap=True)


def _show_dry_run(result: Mapping[str, Any], console: Console) -> None:
    if result.get("data"):
        data_report.show(result["data"], console)
    _print_table(console, ("part", "network", "parameters", "MACs"), _model_lines(result), numbers=2)
    taps = result.get("taps") or {}
    _print_table(console, ("part", "role", "shape"), _tap_lines(taps), numbers=0)
    stages = [
        (words.clean(stage.get("name")), str(stage.get("epochs")), str(stage.get("steps")))
        for stage in result.get("stages") or ()
    ]
    _print_table(console, ("stage", "epochs", "steps"), stages, numbers=2)
    if result.get("seconds"):
        console.print(Text(_time(result["seconds"])), soft_wrap=True)
    console.print(Text("Dry run: nothing was trained or written. The recipe, whole:"))
    console.print()
    console.print(Text(dump(dict(result.get("recipe") or {})).rstrip()), soft_wrap=True)


def _time(seconds: Mapping[str, float]) -> str:
    """Return an estimate as a sentence; ``seconds`` by what takes them, and "total"."""
    parts = [f"{name} {words.duration(value)}" for name, value in seconds.items() if name != "total" and value]
    return f"Training takes about {words.duration(seconds['total'])} on this machine: {', '.join(parts)}."


def _model_lines(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            words.clean(model.get("role")),
            words.clean(model.get("name")),
            words.count(model.get("params")),
            words.count(model.get("macs")),
        )
        for model in result.get("models") or ()
    ]


def _tap_lines(taps: Mapping[str, Any]) -> list[tuple[str, ...]]:
    teachers = several(taps.get("teachers"))
    sides = [("student", taps.get("student") or {})]
    sides += words.numbered(teachers)
    return [
        (side, words.clean(role), shape)
        for side, roles in sides
        for role, shapes in roles.items()
        for shape in _shape_texts(shapes)
    ]


def _shape_texts(shape: Any) -> Iterator[str]:
    """Yield "(64, 8, 8)" for a shape, and one such for each shape of a list of them."""
    if isinstance(shape, (list, tuple)) and shape and isinstance(shape[0], (list, tuple)):
        for each in shape:
            yield from _shape_texts(each)
        return
    yield f"({', '.join(str(number) for number in shape)})" if isinstance(shape, (list, tuple)) else words.clean(shape)


def _print_table(console: Console, titles: Sequence[str], lines: Sequence[Sequence[str]], numbers: int) -> None:
    """Print ``lines`` under ``titles``, the last ``numbers`` columns flush right; nothing without lines."""
    if not lines:
        return
    console.print(fitted(Grid(titles, lines, len(titles) - numbers), console.width))
