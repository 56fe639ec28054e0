"""The table of ``kdtool runs``."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kdtool.terminal import words
from kdtool.terminal.table import width_for

_STYLES = {"running": "green", "failed": "red", "stopped": "yellow", "finished": ""}


def show(runs: Sequence[Mapping[str, Any]], stream: TextIO) -> None:
    """Print one line a run, and below how to go on with those that were stopped."""
    console = Console(file=stream, highlight=False, width=width_for(stream))
    if not runs:
        console.print("no runs here yet")
        return
    table = Table()
    for title in ("run", "state", "top-1", "gain", "took", "changed"):
        table.add_column(title, justify="right" if title in ("top-1", "gain", "took") else "left", overflow="fold")
    for run in runs:
        gain = run["gain_points"]
        cells = [
            words.clean(run["folder"]),
            _state(run),
            words.percent(run["top1"]),
            "-" if gain is None else f"{gain:+.2f}",
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
        console.print(Text(f"A stopped run goes on by its own name: {words.clean(going)}"), soft_wrap=True)


def _state(run: Mapping[str, Any]) -> str:
    at = run["last_epoch"]
    if run["state"] == "finished" or not at:
        return str(run["state"])
    return f"{run['state']}: {words.clean(at['stage'])} {at['epoch']}/{at['epochs']}"
