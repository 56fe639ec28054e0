"""The table of a comparison: for each student a line a method, no wider than the screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Group
from rich.table import Table
from rich.text import Text

from kdtool.events import Metric
from kdtool.terminal import numbers, words

Column = tuple[str, list[str]]
"""A heading, of two lines perhaps, and a cell for each row of the document."""


def tables(values: Mapping[str, Any], width: int) -> Group:
    """Return a comparison's document as tables under one another, aligned.

    Args:
        values: the document.
        width: columns of the screen. Where they do not suffice, time and memory stand below as text.
    """
    rows = values["rows"]
    results, costs = _results(values), _costs(rows)
    gaps = [gap for gap in (3, 2, 1) if _width([*results, *costs], gap) <= width]
    columns = [*results, *costs] if gaps else results
    gap = gaps[0] if gaps else 2 if _width(results, 2) <= width else 1
    parts: list[Table | Text] = [Text(_title(values))]
    for student in values["students"]:
        chosen = [number for number, row in enumerate(rows) if row["student"] == student]
        if len(values["students"]) > 1:
            parts += [Text(), Text(words.clean(student), style="bold")]
        parts.append(_table(columns, chosen, gap))
        if not gaps and (text := _costs_text([rows[number] for number in chosen])):
            parts.append(Text(text, style="dim"))
    return Group(*parts)


def difference(found: Mapping[str, Any] | None, metric: Metric) -> str:
    """Return a difference, in points of a percentage, as "+1.20 ± 0.85", and "" for none."""
    if not found or found["mean"] is None:
        return ""
    text = numbers.difference(metric, found["mean"])
    if found["low"] is None:
        return text
    half = (found["high"] - found["low"]) / 2
    return f"{text} ± {100 * half:.2f}" if metric.percent else f"{text} ± {half:.2g}"


def spread(found: Mapping[str, Any], metric: Metric) -> str:
    """Return mean and deviation, in percent where the metric is, as "93.04 ± 0.71"."""
    return numbers.in_cells(metric, found["mean"], found["sd"])


def _title(values: Mapping[str, Any]) -> str:
    seeds = len(values["seeds"])
    of = f"mean ± deviation of {seeds} seeds" if seeds > 1 else "one seed"
    interval = " ± its 95 % interval" if seeds > 1 else ""
    data, reference = words.clean(values["data"]["name"]), words.clean(values["reference"])
    return f"Test split of {data}, {of}; gain: paired difference to {reference}{interval}."


def _results(values: Mapping[str, Any]) -> list[Column]:
    rows, seeds, metric = values["rows"], len(values["seeds"]), Metric.of(values)
    columns = [("\nmethod", [words.clean(row["method"]) for row in rows])]
    if any(row["seeds"] < seeds for row in rows):
        columns.append(("\nseeds", [f"{row['seeds']}/{seeds}" for row in rows]))
    for title, key in (("best epoch", "best"), ("last epoch", "last")):
        if key == "best" or values["selected"] == "best":
            top = title if values["selected"] == "best" else ""
            columns.append(
                (f"{top}\n{metric.label}{', %' * metric.percent}", [spread(row[key], metric) for row in rows])
            )
            columns.append(
                (
                    "\ngain" if metric.larger_is_better else "\ndifference",
                    [difference(row[key]["difference"], metric) for row in rows],
                )
            )
    return columns


def _costs(rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    costs = [row["cost"] for row in rows]
    columns = [("\ns", [_seconds(cost) or "-" for cost in costs])]
    for title, key in (("\nMB", "host_bytes"), ("GPU\nMB", "device_bytes")):
        if key == "host_bytes" or any(cost[key] for cost in costs):
            columns.append((title, ["-" if cost[key] is None else f"{cost[key] / 1e6:.0f}" for cost in costs]))
    return columns


def _costs_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what runs took, as "a run takes: none 0.7 s, 780.1 MB; kd ..."."""
    known = [(row["method"], row["cost"]) for row in rows if row["cost"]["seconds"] is not None]
    each = (f"{words.clean(name)} {_seconds(cost)} s, {words.size(cost['host_bytes'])}" for name, cost in known)
    return f"a run takes: {'; '.join(each)}" if known else ""


def _seconds(cost: Mapping[str, Any]) -> str:
    return "" if cost["seconds"] is None else f"{cost['seconds']:.1f}"


def _widths(columns: Sequence[Column]) -> list[int]:
    return [max(cell_len(text) for text in (*title.split("\n"), *cells)) for title, cells in columns]


def _width(columns: Sequence[Column], gap: int) -> int:
    return sum(_widths(columns)) + gap * (len(columns) - 1)


def _table(columns: Sequence[Column], rows: Sequence[int], gap: int) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="dim")
    for number, ((title, _), width) in enumerate(zip(columns, _widths(columns), strict=True)):
        table.add_column(Text(title), justify="right" if number else "left", min_width=width, no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cells[row]) for _, cells in columns))
    return table
