"""What a data set holds, as a table: classes by split, and what is to be said of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from kdtool.terminal import words
from kdtool.terminal.grid import Grid, fitted

MOST = 20
"""Classes that have a line of their own at most."""


def show(report: Mapping[str, Any], console: Console) -> None:
    """Print a data report, as ``DataReport.to_dict`` gives it."""
    parts = report["parts"]
    title = f"data {words.clean(report['name'])}: {report['unit']}"
    names = [str(name) for name in report["class_names"]]
    listed = names if len(names) <= MOST else names[: MOST - 1]
    lines = [(name, [part["counts"][name] for part in parts.values()]) for name in listed]
    if rest := names[len(listed) :]:
        sums = [sum(part["counts"][name] for name in rest) for part in parts.values()]
        lines.append((f"{len(rest):,} more classes", sums))
    if any(part["unlabelled"] for part in parts.values()):
        lines.append(("without a label", [part["unlabelled"] for part in parts.values()]))
    lines.append(("all", [part["samples"] for part in parts.values()]))
    cells = [[words.clean(name), *(f"{count:,}" for count in counts)] for name, counts in lines]
    console.print(fitted(Grid(["class", *parts], cells, 1, title), console.width))
    for name, part in parts.items():
        console.print(Text(f"{name}: {words.clean(part['origin'])}"), soft_wrap=True)
    for note in report["notes"]:
        console.print(Text(words.clean(note)), soft_wrap=True)
    for warning in report["warnings"]:
        console.print(Text(f"warning: {words.clean(warning)}", style="yellow"), soft_wrap=True)
    console.print()
