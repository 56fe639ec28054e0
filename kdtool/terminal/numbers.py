"""Values of whatever metric a run is judged by, as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdtool.events import Metric
from kdtool.terminal import words


def value(metric: Metric, found: float | None) -> str:
    """Return "97.12 %" or "12.34", and "-" for nothing."""
    if metric.percent or found is None:
        return words.percent(found)
    return f"{found:.4g}"


def in_cells(metric: Metric, mean: float | None, deviation: float | None) -> str:
    """Return a mean and its standard deviation without a unit: "93.00 ± 1.00"; "-" for nothing."""
    if mean is None:
        return "-"
    if deviation is None:
        return value(metric, mean).removesuffix(" %")
    return f"{100 * mean:.2f} ± {100 * deviation:.2f}" if metric.percent else f"{mean:.4g} ± {deviation:.2g}"


def difference(metric: Metric, found: float | None) -> str:
    """Return "+3.00", in points where the metric is a percentage; "-" for nothing."""
    if found is None:
        return "-"
    return f"{100 * found:+.2f}" if metric.percent else f"{found:+.4g}"


def gain(metric: Metric, found: float) -> str:
    """Return a gain as ``Metric.gain`` gives it: "+3.00 points" or "+1.2"."""
    rounded = round(found, 2) + 0.0  # no -0.00
    return f"{rounded:+.2f} points" if metric.percent else f"{found + 0.0:+.4g}"


def scaled(metric: Metric, found: float | None) -> float | None:
    """Return a value as an axis has it: in percent, or as it is."""
    return None if found is None else 100 * found if metric.percent else found


def on_axis(metric: Metric, what: str) -> str:
    """Return an axis' title: "test top-1, %" or "test perplexity"."""
    return f"{what} {metric.label}{', %' if metric.percent else ''}"


def heading(metric: Metric) -> str:
    """Return what a card on the metric is called; top-1 is known as the accuracy."""
    return "Accuracy" if metric == Metric() else metric.label[:1].upper() + metric.label[1:]


def one(unit: str) -> str:
    """Return "image" for "images"."""
    return f"{unit[:-3]}y" if unit.endswith("ies") else unit.removesuffix("s")


def reading(metric: Metric, metrics: Mapping[str, Any] | None) -> str:
    """Return a validation reading as "val top-1 97.12 %", "" where there is none."""
    found = (metrics or {}).get(metric.key)
    return "" if found is None else f"val {metric.label} {value(metric, found)}"
