"""What ``kdtool profile`` found, as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kdtool.terminal import words
from kdtool.terminal.table import width_for


def show(found: Mapping[str, Any], stream: TextIO) -> None:
    """Print a profile's tables: what networks are, then how fast."""
    console = Console(file=stream, highlight=False, width=width_for(stream))
    machine, rows = found["machine"], found["rows"]
    plural = "s" * (machine["threads"] != 1)
    console.print(
        Text(f"{words.clean(machine['processor'])}, {machine['device']}, {machine['threads']} thread{plural}")
    )
    sizes = [speed["batch_size"] for speed in rows[0]["speed"]]
    at = ", ".join(map(str, sizes))
    facts = _table("networks", "parameters", "MACs", "file", "input", f"memory of a forward, batch {at}")
    units = {row["unit"] for row in rows}
    unit = words.clean(units.pop()) if len(units) == 1 else "samples"
    unit = "tokens" if all("tokens_per_s" in row["speed"][0] for row in rows) else unit
    speed = _table(f"latency: median (95th percentile), {unit} a second", *(f"batch {size}" for size in sizes), "speed")
    for row in rows:
        style = "bold" if row["part"] == "student" else ""
        held = ", ".join(words.size(row["memory"]["bytes"][str(size)]) for size in sizes)
        cells = [words.count(row["params"]), words.count(row["macs"]), words.size(row["bytes"])]
        cells += [words.clean(row["input"]), held]
        _row(facts, row, cells, style)
        times = [f"{each['median_ms']:.2f} ms ({each['p95_ms']:.2f})\n{_rate(each)}/s" for each in row["speed"]]
        gain = rows[0]["speed"][0]["median_ms"] / row["speed"][0]["median_ms"]
        _row(speed, row, [*times, f"{gain:.2f}x"], style)
    console.print(facts)
    console.print(speed)
    console.print(Text(f"speed: of the first network's latency at batch {sizes[0]}"))


def _rate(speed: Mapping[str, Any]) -> str:
    return f"{speed['tokens_per_s']:.0f} tokens" if "tokens_per_s" in speed else f"{speed['samples_per_s']:.0f}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    table.add_column("network", overflow="fold")
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _row(table: Table, row: Mapping[str, Any], cells: list[str], style: str) -> None:
    table.add_row(*(Text(cell) for cell in (row["part"], words.clean(row["name"]), *cells)), style=style)
