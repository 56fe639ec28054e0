"""The table of ``kdtool runs``."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from kdtool.events import Metric
from kdtool.terminal import numbers, words
from kdtool.terminal.grid import Grid, fitted
from kdtool.terminal.table import width_for


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
    rows = [
        [
            words.clean(run["folder"]),
            _state(run),
            _value(run, metric, several=len(labels) > 1),
            "-" if run["gain"] is None else f"{run['gain']:+.2f}" if metric.percent else f"{run['gain']:+.4g}",
            "-" if run["seconds"] is None else words.duration(run["seconds"]),
            datetime.datetime.fromtimestamp(run["changed"]).strftime("%Y-%m-%d %H:%M"),
        ]
        for run, metric in zip(runs, metrics, strict=True)
    ]
    console.print(fitted(Grid(titles, rows, 2), console.width))
    for run in runs:
        if run["error"]:
            console.print(Text(f"{words.clean(run['folder'])} failed: {words.clean(run['error'])}"), soft_wrap=True)
    if going := next((run["resume"] for run in runs if run["resume"]), None):
        console.print(Text(f"What was stopped goes on by its own name: {words.clean(going)}"), soft_wrap=True)


def _value(run: Mapping[str, Any], metric: Metric, several: bool) -> str:
    value = numbers.value(metric, run["value"])
    return f"{metric.label} {value}" if several and run["value"] is not None else value


def _state(run: Mapping[str, Any]) -> str:
    if run["kind"] == "comparison":
        runs = run["runs"]
        return f"{run['state']}: {runs['done'] + runs['failed']}/{runs['of']} runs"
    at = run["last_epoch"]
    if run["state"] == "finished" or not at:
        return str(run["state"])
    return f"{run['state']}: {words.clean(at['stage'])} {at['epoch']}/{at['epochs']}"
