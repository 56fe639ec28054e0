"""A comparison's part of the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdtool.report import charts
from kdtool.report.html import Page, box, escape, grid, table
from kdtool.terminal import words


def add_comparison(page: Page, found: Mapping[str, Any]) -> None:
    """Add what ``gather`` found of a comparison."""
    whole = found["comparison"]
    rows, several = whole["rows"], len(whole["students"]) > 1
    seeds = len(whole["seeds"])
    page.head(found["folder"])
    sizes = f"{len(whole['methods'])} methods, {len(whole['students'])} students, {seeds} seed{'s' * (seeds != 1)}"
    page.add(f"<p>{sizes}; differences are paired by seed, to {escape(whole['reference'])}.</p>")
    page.add(*(f"<p>{escape(sentence)}</p>" for sentence in whole["says"]))
    latency = {student: row["speed"][0]["median_ms"] for student, row in found["profile"].items()}
    page.add(
        grid(
            [
                page.card(
                    "Ranking",
                    charts.ranking(rows, whole["reference"], several),
                    "Mean paired difference of test top-1 with its 95% interval; one that holds zero shows nothing.",
                ),
                page.card(
                    "Accuracy and latency",
                    charts.accuracy_and_latency(rows, latency),
                    "Latency of the student on the machine that made this page; bars are standard deviations.",
                ),
                box("All of it", _table(whole), wide=True),
            ]
        )
    )


def _table(whole: Mapping[str, Any]) -> str:
    titles = [
        "student",
        "method",
        "seeds",
        "best top-1",
        "difference",
        "95% interval",
        "last top-1",
        "seconds",
        "memory",
    ]
    ranked = sorted(whole["rows"], key=lambda row: -(row["best"]["mean"] or 0))
    return table(titles, [_cells(row) for row in ranked], numbers=2)


def _cells(row: Mapping[str, Any]) -> list[str]:
    difference = row["best"]["difference"] or {}
    low, high = difference.get("low"), difference.get("high")
    seconds = row["cost"]["seconds"]
    return [
        row["student"],
        row["method"],
        str(row["seeds"]),
        _spread(row["best"]),
        "-" if difference.get("mean") is None else f"{100 * difference['mean']:+.2f}",
        "-" if low is None or high is None else f"{100 * low:+.2f} to {100 * high:+.2f}",
        _spread(row["last"]),
        "-" if seconds is None else f"{seconds:.1f}",
        words.size(row["cost"]["host_bytes"]),
    ]


def _spread(found: Mapping[str, Any]) -> str:
    deviation = "" if found["sd"] is None else f" ± {100 * found['sd']:.2f}"
    return words.percent(found["mean"]).removesuffix(" %") + deviation
