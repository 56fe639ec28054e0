"""The table of ``kdtool list-tasks``."""

from __future__ import annotations

import inspect
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kdtool.errors import KdtoolError
from kdtool.registry import tasks
from kdtool.terminal import words
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
    table = Table()
    for title in ("task", "about", "samples", "metric", "package"):
        table.add_column(title, overflow="fold")
    every = listing()
    for each in every:
        metric = (each["metric"] or {}).get("label", "-")
        cells = (
            each["name"],
            each["about"] or "-",
            each["unit"] or "-",
            metric,
            f"{each['distribution']} {each['version']}",
        )
        table.add_row(*(Text(words.clean(cell)) for cell in cells))
    console.print(table)
    for each in every:
        if each["error"]:
            console.print(Text(f"{words.clean(each['name'])} cannot be used: {words.clean(each['error'])}"))
