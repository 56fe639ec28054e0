"""The table of ``kdtool runs``."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kdtool.events import Metric
from kdtool.terminal import numbers, words
from kdtool.terminal.table import width_for

_STYLES = {"running": "green", "failed": "red", "stopped": "yellow", "finished": ""}


def show(runs: Sequence[Mapping[str, Any]], stream: TextIO) -> None:
    """Print one line a run, and below how to go on with those that were stopped."""
    console = Console(file=stream, highlight=False, width=width_for(stream))
    if not runs:
        console.print("no runs here yet")
        return
    metrics = [Metric(**run["metric"]) for run in runs]
    labels = sorted({metric.label for metric in metrics})
    one = labels[0] if len(labels) == 1 else "metric"
    titles = ("run", "state", one, "gain", "took", "changed")
    table = Table()
    for title in titles:
        table.add_column(title, justify="right" if title in (one, "gain", "took") else "left", overflow="fold")
    for run, metric in zip(runs, metrics, strict=True):
        value = numbers.value(metric, run["value"])
        cells = [
            words.clean(run["folder"]),
            _state(run),
            value if len(labels) == 1 or run["value"] is None else f"{metric.label} {value}",
            "-" if run["gain"] is None else f"{run['gain']:+.2f}" if metric.percent else f"{run['gain']:+.4g}",
            "-" if run["seconds"] is None else words.duration(run["seconds"]),
            datetime.datetime.fromtimestamp(run["changed"]).strftime("%Y-%m-%d %H:%M"),
        ]
        styles = ["", _STYLES[run["state"]], "bold", "", "", "dim"]
        table.add_row(*(Text(cell, style=style) for cell, style in zip(cells, styles, strict=True)))
    console.print(table)
    for run in runs:
        if run["error"]:
            console.print(Text(f"{words.clean(run['folder'])} failed: {words.clean(run['error'])}"), soft_wrap=True)
    if going := next((run["resume"] for run in runs if run["resume"]), None):
        console.print(Text(f"What was stopped goes on by its own name: {words.clean(going)}"), soft_wrap=True)


def _state(run: Mapping[str, Any]) -> str:
    if run["kind"] == "comparison":
        runs = run["runs"]
        return f"{run['state']}: {runs['done'] + runs['failed']}/{runs['of']} runs"
    at = run["last_epoch"]
    if run["state"] == "finished" or not at:
        return str(run["state"])
    return f"{run['state']}: {words.clean(at['stage'])} {at['epoch']}/{at['epochs']}"
