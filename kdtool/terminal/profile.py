"""What ``kdtool profile`` found, as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from kdtool.terminal import words
from kdtool.terminal.grid import Grid, fitted
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
    units = {row["unit"] for row in rows}
    unit = words.clean(units.pop()) if len(units) == 1 else "samples"
    unit = "tokens" if all("tokens_per_s" in row["speed"][0] for row in rows) else unit
    facts, speeds = [], []
    for row in rows:
        held = ", ".join(words.size(row["memory"]["bytes"][str(size)]) for size in sizes)
        name = [row["part"], words.clean(row["name"])]
        shape = [words.count(row["params"]), words.count(row["macs"]), words.size(row["bytes"])]
        facts.append([*name, *shape, words.clean(row["input"]), held])
        times = []
        for each in row["speed"]:
            times += [f"{each['median_ms']:.2f} ms ({each['p95_ms']:.2f})", _rate(each)]
        gain = rows[0]["speed"][0]["median_ms"] / row["speed"][0]["median_ms"]
        speeds.append([*name, *times, f"{gain:.2f}x"])
    main = next((number for number, row in enumerate(rows) if row["part"] == "student"), None)
    titles = ["", "network", "parameters", "MACs", "file", "input", f"memory of a forward, batch {at}"]
    timed = [title for size in sizes for title in (f"batch {size}", f"batch {size}, a second")]
    for grid in (
        Grid(titles, facts, 2, "networks", main),
        Grid(["", "network", *timed, "speed"], speeds, 2, f"latency: median (95th percentile), {unit} a second", main),
    ):
        console.print(fitted(grid, console.width))
    console.print(Text(f"speed: of the first network's latency at batch {sizes[0]}"))


def _rate(speed: Mapping[str, Any]) -> str:
    return f"{speed['tokens_per_s']:.0f} tokens" if "tokens_per_s" in speed else f"{speed['samples_per_s']:.0f}"
