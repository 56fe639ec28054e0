"""Teacher caches as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from kdtool.terminal import words


def show_list(entries: Sequence[Mapping[str, Any]], stream: TextIO) -> None:
    """Print a line for each cache and each trained teacher, and their sums."""
    from rich.console import Console
    from rich.text import Text

    from kdtool.terminal.grid import Grid, fitted
    from kdtool.terminal.table import width_for

    console = Console(file=stream, highlight=False, width=width_for(stream))
    rows = [
        [
            words.clean(entry["name"]),
            words.clean(entry["data"] or "-"),
            _holds(entry),
            "-" if entry["samples"] is None else str(entry["samples"]),
            words.size(entry["bytes"]),
            f"{entry['unused_days']:.0f} days ago" if entry["unused_days"] >= 1 else "today",
        ]
        for entry in entries
    ]
    if rows:
        titles = ["cache", "data", "holds", "samples", "size", "last used"]
        console.print(fitted(Grid(titles, rows, 3), console.width))
    for kind, name in (("outputs", "teacher cache"), ("teacher", "trained teacher")):
        sizes = [entry["bytes"] for entry in entries if entry["kind"] == kind]
        console.print(Text(f"{len(sizes)} {name}{'s' * (len(sizes) != 1)}, {words.size(sum(sizes))}"))


def _holds(entry: Mapping[str, Any]) -> str:
    if entry["kind"] == "teacher":
        return "trained teacher" if entry["complete"] else "teacher, its training was stopped"
    return ", ".join(_outputs(name, part) for name, part in entry["parts"].items()) or "unreadable"


def _outputs(name: str, part: Mapping[str, Any]) -> str:
    width = f"{part['top_k']} of {part['width']}" if part["top_k"] else str(part["width"])
    lacking = "" if part["shards"] == part["of"] else f", {part['shards']} of {part['of']} shards"
    return words.clean(f"{name} ({width}) in {part['views']} views{lacking}")
