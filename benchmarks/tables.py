"""Tables of runs beside a reference, over seeds: means, intervals, and paired differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import papers  # beside this file
from papers import Row

from kdtool.comparison.statistics import paired


@dataclass(frozen=True)
class Line:
    """One line of a table: what is trained, and by column its runs; the same ones where columns do not differ in it."""

    what: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Figure:
    """What a table shows of a run.

    Attributes:
        of: a network's measures on the test split, as ``result.json`` has them, to the figure.
        digits: shown after the point.
        more: heads the column of differences from the reference.
    """

    of: Callable[[dict[str, Any]], float]
    digits: int
    more: str


@dataclass(frozen=True)
class Table:
    """A table: its title, what is said about it, its columns, its figure, and its lines, the first the reference."""

    title: str
    text: str
    columns: tuple[str, ...]
    figure: Figure
    lines: list[Line]


ACCURACY = Figure(lambda test: 100 * float(test["top1"]), 1, "more than alone")


def rows_of(table: Table) -> list[Row]:
    """Return a table's rows, each once."""
    return list(dict.fromkeys(row for line in table.lines for row in line.rows))


def seeds_of(row: Row, root: Path) -> list[int]:
    """Return the seeds of which a row has notes under ``root``, in order."""
    begin = root / row.folder(0).parent
    names = (path.name.removeprefix(f"{Path(row.name).name}-") for path in begin.glob(f"{Path(row.name).name}-*"))
    return sorted(int(name) for name in names if name.isdecimal())


def table_of(table: Table, root: Path = papers.HERE) -> list[str]:
    """Return a table in Markdown, of the seeds that all of its rows have; nothing without any."""
    found = {row: {seed: run for seed in seeds_of(row, root) if (run := papers.finished(row, seed, root))}
             for row in rows_of(table)}  # fmt: skip
    common = sorted(set.intersection(*(set(runs) for runs in found.values())))
    if not common:
        return []
    figure = table.figure
    values = {row: {seed: figure.of(found[row][seed]["result"]["test"]["student"]) for seed in common} for row in found}
    head = [f"{column} | {figure.more}" for column in table.columns]
    lines = [f"| student | {' | '.join(head)} |", "|" + " --- |" * (1 + 2 * len(head))]
    for line in table.lines:
        cells = [line.what]
        for row, alone in zip(line.rows, table.lines[0].rows, strict=True):
            gain = "" if row is alone else gain_of(values[row], values[alone], figure.digits)
            cells += [mean_of(values[row], figure.digits), gain]
        lines.append(f"| {' | '.join(cells)} |")
    runs = [found[row][seed] for row in found for seed in common]
    teachers = {
        f"{figure.of(test):.{figure.digits}f}" for run in runs if (test := run["result"]["test"].get("teacher"))
    }
    said = [
        table.text,
        f"Teacher: {', '.join(sorted(teachers))}.",
        f"Means of {len(common)} seeds of the student, with Student's 95% intervals over them; of differences, paired "
        "by seed."
        if len(common) > 1
        else "One seed of the student.",
    ]
    how = [f"On: {papers.machine_of(runs)}. By:", "", *(f"    {papers.command_of(row)}" for row in found), ""]
    return [f"## {table.title}", "", " ".join(said), "", *lines, "", *how]


def mean_of(values: dict[int, float], digits: int = 1) -> str:
    """Return a mean over seeds and its interval: "74.0 (73.1 to 74.9)"."""
    found = paired(values, dict.fromkeys(values, 0.0))
    between = "" if found["low"] is None else f" ({found['low']:.{digits}f} to {found['high']:.{digits}f})"
    return f"{found['mean']:.{digits}f}{between}"


def gain_of(values: dict[int, float], reference: dict[int, float], digits: int = 1) -> str:
    """Return a difference paired by seed and its interval: "+6.1 (+5.0 to +7.2)"."""
    found = paired(values, reference)
    between = "" if found["low"] is None else f" ({found['low']:+.{digits}f} to {found['high']:+.{digits}f})"
    return f"{found['mean']:+.{digits}f}{between}"


def make(tables: list[Table], run: str | None, seeds: int) -> list[str]:
    """Make the missing runs with a word in their names, keep all runs' notes, and return the tables' lines.

    Args:
        tables: what is shown.
        run: the word; None: nothing is run.
        seeds: how many at most are run. Tables show all that have notes.
    """
    for seed in range(seeds):
        for row in (row for table in tables for row in rows_of(table)):
            if run and run in row.name and papers.finished(row, seed) is None:
                papers.run(row, seed)
            papers.keep(row, seed)
    return [line for table in tables for line in table_of(table)]
