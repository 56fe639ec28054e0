"""What ``kdtool bench`` found, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from kdtool.terminal import words


def show(found: Mapping[str, Any], stream: TextIO) -> None:
    """Print the tables of a bench's document."""
    from rich.console import Console

    # In a file or a pipe a table is as wide as it needs to be.
    console = Console(file=stream, highlight=False, width=None if stream.isatty() else 160)
    machine, pair = found["machine"], found["pair"]
    console.print(
        f"{' + '.join(map(words.clean, pair['teacher'])) or 'no teacher'} -> {words.clean(pair['student'])}, batch "
        f"{pair['batch_size']}, {words.clean(pair['data'])}; {machine['device']}, {machine['threads']} threads, torch "
        f"{machine['torch']}"
    )
    for title, rows in (
        ("engine beside the floor", found.get("rows")),
        ("features, one after the other, in a bare loop", found.get("features")),
        ("parts alone", found.get("parts")),
        ("methods, last stage, in a bare loop", found.get("methods")),
    ):
        if rows:
            console.print(_table(title, rows))


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> Any:
    from rich.table import Table

    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(title=title, title_justify="left")
    for name in names:
        number = all(isinstance(row.get(name, 0), (int, float)) for row in rows)
        table.add_column(name.replace("_", " "), justify="right" if number else "left")
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in names))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        between = " .. " if value and isinstance(value[0], float) else ", "
        return between.join(_cell(each) for each in value)
    return f"{value:g}" if isinstance(value, float) else words.clean(value)
