"""The table of ``kdtool list-tasks``."""

from __future__ import annotations

import inspect
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from kdtool.errors import KdtoolError
from kdtool.registry import tasks
from kdtool.terminal import words
from kdtool.terminal.grid import Grid, wrapped
from kdtool.terminal.table import width_for


def listing() -> list[dict[str, Any]]:
    """Return "name", "about", "unit", "metric", "views", "distribution", "version" and "error" of every task."""
    found = []
    for entry in tasks.entries():
        about: dict[str, Any] = dict.fromkeys(("about", "unit", "metric", "views", "error"))
        try:
            task = entry.load()
            about |= {
                "about": (inspect.getdoc(type(task)) or "").split("\n")[0],
                "unit": task.unit,
                "metric": task.headline.to_dict(),
                "views": dict(task.views),
            }
        except KdtoolError as error:
            about["error"] = str(error)
        found.append({"name": entry.name, **about, "distribution": entry.distribution, "version": entry.version})
    return found


def show_list(stream: TextIO) -> None:
    """Print one line a task, and the errors of those that cannot be used below."""
    console = Console(file=stream, highlight=False, width=width_for(stream))
    every = listing()
    rows = [
        (
            words.clean(each["name"]),
            words.clean(each["unit"] or "-"),
            words.clean((each["metric"] or {}).get("label", "-")),
            words.clean(f"{each['distribution']} {each['version']}"),
            words.clean(each["about"] or "-"),
        )
        for each in every
    ]
    console.print(wrapped(Grid(("task", "samples", "metric", "package", "about"), rows), 1, console.width))
    for each in every:
        if each["error"]:
            console.print(Text(f"{words.clean(each['name'])} cannot be used: {words.clean(each['error'])}"))
