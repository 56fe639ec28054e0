"""What ``kdtool export`` wrote, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from kdtool.terminal import words
from kdtool.terminal.grid import Grid, fitted
from kdtool.terminal.table import width_for


def show(found: Mapping[str, Any], stream: TextIO) -> None:
    """Print the exports beside their student: size, accuracy, difference and speed."""
    console = Console(file=stream, highlight=False, width=width_for(stream))
    test, speed = found["test"], found["speed"]
    unit, metric = found["unit"], words.clean(found["metric"])
    of = f"{test[unit]} test {words.clean(unit)} of {words.clean(test['data'])}"
    title = f"{words.clean(found['target'])}, compared on {of}"
    titles = ["", metric, "difference", "file", *_batches(speed["student"])]
    rows = [["student", words.percent(test["top1"]), "", ""]]
    rows += [
        [form, words.percent(each["top1"]), _difference(each), words.size(each["bytes"])]
        for form, each in found["exports"].items()
    ]
    for row in rows:
        timed = speed.get(row[0])
        row += [""] * len(speed["student"]) if timed is None else [
            f"{own['median_ms']:.2f} ms ({student['median_ms'] / own['median_ms']:.2f}x)"
            for own, student in zip(timed, speed["student"], strict=True)
        ]  # fmt: skip
    console.print(fitted(Grid(titles, rows, 1, title, main=0), console.width))
    machine = found["machine"]
    console.print(
        Text(
            f"difference: of the largest absolute logit; times: median{_at(found)}, on "
            f"{words.clean(machine['processor'])}, {machine['threads']} thread{'s' * (machine['threads'] != 1)}"
        )
    )
    for note in found.get("notes") or ():
        console.print(Text(words.clean(note)))
    console.print(Text(f"All of it is in {words.clean(found['folder'])}"), soft_wrap=True)
    if found["hub"]:
        console.print(Text(f"On the hub: {words.clean(found['hub'])}"), soft_wrap=True)


def _difference(export: Mapping[str, Any]) -> str:
    return "not compared" if "not_compared" in export else f"{export['relative_difference']:.1e}"


def _at(found: Mapping[str, Any]) -> str:
    return f" at {words.clean(found['input'])}" if found.get("input") else ""


def _batches(speeds: list[dict[str, Any]]) -> list[str]:
    return [f"batch {each['batch_size']}" for each in speeds]
