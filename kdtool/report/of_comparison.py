"""A comparison's chapter of the page."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from kdtool.events import Metric
from kdtool.report import charts
from kdtool.report.sections import Chapter, Chart, Table
from kdtool.terminal import numbers, words


def chapter(found: Mapping[str, Any]) -> Chapter:
    """Return the chapter on a comparison.

    Args:
        found: what ``gather`` found: "folder", "comparison", "profile" and "notes".
    """
    whole = found["comparison"]
    metric, unit = Metric.of(whole), whole.get("unit", "images")
    rows, several = whole["rows"], len(whole["students"]) > 1
    counted = (("method", whole["methods"]), ("student", whole["students"]), ("seed", whole["seeds"]))
    sizes = ", ".join(f"{len(some)} {name}{'s' * (len(some) != 1)}" for name, some in counted)
    latency = {student: row["speed"][0]["median_ms"] for student, row in found["profile"].items()}
    less = "" if metric.larger_is_better else " Less is better."
    return Chapter(
        found["folder"],
        sentences=[f"{sizes}; differences are paired by seed, to {whole['reference']}.", *_left(found), *whole["says"]],
        notes=found.get("notes", ()),
        cards=[
            Chart(
                "Ranking",
                charts.ranking(rows, whole["reference"], several, metric),
                f"Mean paired difference of test {metric.label} with its 95% interval; one that holds zero shows "
                f"nothing.{less}",
            ),
            Chart(
                f"{numbers.heading(metric)} and latency",
                charts.metric_and_latency(rows, latency, metric, unit, _levels(whole, metric)),
                "Latency of the student on the machine that made this page, methods side by side; bars are standard "
                "deviations.",
            ),
            _table(whole, metric),
        ],
    )


def _left(found: Mapping[str, Any]) -> list[str]:
    """Return a sentence on runs that have not ended, where there are any."""
    runs = found["comparison"].get("runs", ())
    left = sum(run.get("state", "done") not in ("done", "failed") for run in runs)
    if not left:
        return []
    again = f"kdtool compare --resume {shlex.quote(str(found['folder']))}"
    return [f"{left} of {len(runs)} runs have not ended, and what follows is of the others; to go on: {again}"]


def _levels(whole: Mapping[str, Any], metric: Metric) -> dict[str, float]:
    """Return what the teacher reaches and what guessing gives, where they are known."""
    found = {"teacher": f"teacher_{metric.key}", "guessing": "chance"}
    known = {
        name: [run[key] for run in whole.get("runs", ()) if run.get(key) is not None] for name, key in found.items()
    }
    return {name: sum(values) / len(values) for name, values in known.items() if values}


def _table(whole: Mapping[str, Any], metric: Metric) -> Table:
    label = metric.label
    titles = ["student", "method", "seeds", f"best {label}", "difference", "95% interval", f"last {label}", "seconds",
              "memory"]  # fmt: skip

    def place(row: Mapping[str, Any]) -> tuple[bool, float]:
        mean = row["best"]["mean"]
        return mean is None, 0.0 if mean is None else -mean if metric.larger_is_better else mean

    return Table("All of it", titles, [_cells(row, metric) for row in sorted(whole["rows"], key=place)], numbers=2)


def _cells(row: Mapping[str, Any], metric: Metric) -> list[str]:
    difference = row["best"]["difference"] or {}
    low, high = difference.get("low"), difference.get("high")
    seconds = row["cost"]["seconds"]
    return [
        row["student"],
        row["method"],
        str(row["seeds"]),
        numbers.in_cells(metric, row["best"]["mean"], row["best"]["sd"]),
        numbers.difference(metric, difference.get("mean")),
        "-"
        if low is None or high is None
        else f"{numbers.difference(metric, low)} to {numbers.difference(metric, high)}",
        numbers.in_cells(metric, row["last"]["mean"], row["last"]["sd"]),
        "-" if seconds is None else f"{seconds:.1f}",
        words.size(row["cost"]["host_bytes"]),
    ]
