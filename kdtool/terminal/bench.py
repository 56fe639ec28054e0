"""What ``kdtool bench`` found, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from kdtool.terminal import words
from kdtool.terminal.grid import Grid

_PIPE_WIDTH = 160
"""Columns of a table that goes to a file or a pipe."""


def show(found: Mapping[str, Any], stream: TextIO) -> None:
    """Print the tables of a bench's document."""
    from rich.console import Console
    from rich.text import Text

    from kdtool.terminal.grid import fitted
    from kdtool.terminal.table import width_for

    # In a file or a pipe a table is as wide as it needs to be.
    console = Console(file=stream, highlight=False, width=width_for(stream) and _PIPE_WIDTH)
    machine, pair = found["machine"], found["pair"]
    about = (
        f"{' + '.join(map(words.clean, pair['teacher'])) or 'no teacher'} -> {words.clean(pair['student'])}, batch "
        f"{pair['batch_size']}, {words.clean(pair['data'])}; {machine['device']}, {machine['threads']} threads, torch "
        f"{machine['torch']}"
    )
    console.print(Text(about))
    for title, rows in (
        ("engine beside the floor", found.get("rows")),
        ("features, one after the other, in a bare loop", found.get("features")),
        ("parts alone", found.get("parts")),
        ("methods, last stage, in a bare loop", found.get("methods")),
    ):
        if rows:
            console.print(fitted(_grid(title, rows), console.width))


def _grid(title: str, rows: Sequence[Mapping[str, Any]]) -> Grid:
    """Return rows under their keys, the first texts flush left."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    numbers = [all(isinstance(row.get(name, 0), (int, float)) for row in rows) for name in names]
    cells = [[_cell(row.get(name)) for name in names] for row in rows]
    return Grid([name.replace("_", " ") for name in names], cells, [*numbers, True].index(True), title)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        between = " .. " if value and isinstance(value[0], float) else ", "
        return between.join(_cell(each) for each in value)
    return f"{value:g}" if isinstance(value, float) else words.clean(value)
