"""Plotly figures as plain data: {"data": traces, "layout": ..., "height": pixels}. The page's script adds the theme.

Names that users gave are escaped: plotly reads markup in text.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from kdtool.events import Metric
from kdtool.report.sections import Figure
from kdtool.terminal import numbers

COLOURS = {"teacher": "#a371f7", "student": "#2f81f7", "baseline": "#8b949e"}
_CYCLE = ("#2f81f7", "#e3724d", "#2da44e", "#a371f7", "#d29922", "#db61a2", "#1b9e9e", "#8b949e", "#bf5b17", "#666633")
MANY_CLASSES = 40
"""With more, a chart shows the classes that changed most, or are confused most."""

_LONGEST = 18
"""Letters of a class's name beside an axis: a narrow screen must keep room for the drawing."""


_ASIDE, _ASIDE_OF_ALL = 0.04, 0.3
"""By how much of the axis points of one latency stand apart, one by one and together at most."""


def _figure(traces: Sequence[Mapping[str, Any]], height: int = 295, **layout: Any) -> Figure:
    return {"data": [dict(trace) for trace in traces], "layout": layout, "height": height}


def text(name: object) -> str:
    """Return a name as plotly shows it as it is."""
    return html.escape(str(name), quote=False)


def labels(names: Sequence[str]) -> list[str]:
    """Return names as an axis shows them: long ones without their middle, where they still differ."""
    half = _LONGEST // 2
    short = [name if len(name) <= _LONGEST else f"{name[:half]}…{name[-half:]}" for name in names]
    return [text(name) for name in (short if len(set(short)) == len(set(names)) else names)]


# --- a run's log ------------------------------------------------------------------------------------------------------


def losses(log: Sequence[Mapping[str, Any]]) -> Figure:
    """Every loss term by epoch, the stages one after the other."""
    names = list(dict.fromkeys(name for record in log for name in record["train"]))
    names.sort(key=lambda name: name == "total")
    traces = []
    for number, name in enumerate(names):
        dash = {"dash": "dot", "color": COLOURS["baseline"]} if name == "total" else {"color": _CYCLE[number % 10]}
        values = [record["train"].get(name) for record in log]
        traces.append(_line(text(name), values, line={**dash, "width": 2}))
    return _figure(traces, **_by_epoch("loss", len(log)), **_stages(log))


def selected(log: Sequence[Mapping[str, Any]], alone: Sequence[Mapping[str, Any]], metric: Metric) -> Figure | None:
    """What epochs are selected by, of the student and of the baseline; None where nothing was held out."""
    traces = []
    for part, records in (("student", log), ("baseline", alone)):
        values = [numbers.scaled(metric, (record.get("val") or {}).get(metric.key)) for record in records]
        if any(value is not None for value in values):
            traces.append(_line(part, values, line={"color": COLOURS[part], "width": 2}))
    title = text(numbers.on_axis(metric, "validation"))
    return _figure(traces, **_by_epoch(title, len(log)), **_stages(log)) if traces else None


def rates(log: Sequence[Mapping[str, Any]]) -> Figure:
    """The learning rate at each epoch's end, by stage."""
    stages = list(dict.fromkeys(record["stage"] for record in log))
    traces = []
    for number, stage in enumerate(stages):
        values = [record["lr"] if record["stage"] == stage else None for record in log]
        traces.append(_line(text(stage), values, line={"color": _CYCLE[number % 10], "width": 2}))
    return _figure(traces, **_by_epoch("learning rate", len(log)), **_stages(log, named=False))


def _line(name: str, values: Sequence[float | None], **more: Any) -> dict[str, Any]:
    x = list(range(1, len(values) + 1))
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "marker": {"size": 4},
        "name": name,
        "x": x,
        "y": values,
        **more,
    }


def _by_epoch(title: str, epochs: int) -> dict[str, Any]:
    every = {"dtick": 1} if epochs <= 10 else {}  # no tick at half an epoch
    return {
        "xaxis": {"title": {"text": "epoch"}, **every},
        "yaxis": {"title": {"text": title}},
        "hovermode": "x unified",
    }


def _stages(log: Sequence[Mapping[str, Any]], named: bool = True) -> dict[str, Any]:
    """Return the lines between stages, and their names above."""
    starts = [i for i, record in enumerate(log) if not i or record["stage"] != log[i - 1]["stage"]]
    if len(starts) < 2:
        return {}
    shapes = [
        {"type": "line", "x0": i + 0.5, "x1": i + 0.5, "yref": "paper", "y0": 0, "y1": 1,
         "line": {"dash": "dash", "width": 1, "color": COLOURS["baseline"]}}
        for i in starts[1:]
    ]  # fmt: skip
    names = [
        {"x": i + 0.5, "y": 1, "yref": "paper", "yanchor": "bottom", "xanchor": "left", "showarrow": False,
         "text": text(log[i]["stage"])}
        for i in starts
    ]  # fmt: skip
    return {"shapes": shapes, "annotations": names if named else []}


# --- a classification -------------------------------------------------------------------------------------------------


def class_changes(rows: Sequence[Mapping[str, Any]], what: str = "recall") -> Figure | None:
    """A share of the student less that of others, class by class; the most changed ones of many.

    Args:
        rows: {"class", "student", "teacher", "baseline"}: shares, None where there is none.
        what: what they are shares of, as the axis has it.
    """
    others = [part for part in ("baseline", "teacher") if any(row[part] is not None for row in rows)]
    compared = [row for row in rows if others and row["student"] is not None and row[others[0]] is not None]
    if not compared:
        return None
    compared.sort(key=lambda row: row["student"] - row[others[0]])
    if len(compared) > MANY_CLASSES:
        compared = compared[: MANY_CLASSES // 2] + compared[-MANY_CLASSES // 2 :]
    names = labels([row["class"] for row in compared])
    traces = [
        {
            "type": "bar", "orientation": "h", "name": f"less the {part}", "marker": {"color": COLOURS[part]},
            "y": names,
            "x": [None if row[part] is None else 100 * (row["student"] - row[part]) for row in compared],
        }
        for part in others
    ]  # fmt: skip
    height = 95 + 26 * len(compared)
    axis = {"type": "category", "automargin": True}
    return _figure(traces, height, yaxis=axis, xaxis={"title": {"text": f"points of {what}"}}, barmode="group")


def confusion(found: Mapping[str, Any], unit: str) -> Figure:
    """Counts of true class against predicted class; of many classes those that are confused most.

    Args:
        found: "classes", and "counts": rows are true classes.
        unit: what the samples are called.
    """
    names, counts = list(found["classes"]), found["counts"]
    if len(names) > MANY_CLASSES:
        wrong = [sum(row) - row[i] + sum(other[i] for other in counts) - row[i] for i, row in enumerate(counts)]
        kept = sorted(sorted(range(len(names)), key=lambda i: -wrong[i])[:MANY_CLASSES])
        names, counts = [names[i] for i in kept], [[counts[i][j] for j in kept] for i in kept]
    shares = [[count / (sum(row) or 1) for count in row] for row in counts]
    shown = labels(names)
    trace = {
        "type": "heatmap", "x": shown, "y": shown, "z": shares, "text": counts, "zmin": 0, "zmax": 1,
        "texttemplate": "%{text}" if len(names) <= 20 else "", "colorscale": "page", "showscale": False,
        "hovertemplate": f"true %{{y}}<br>predicted %{{x}}<br>%{{text}} {text(unit)}<extra></extra>",
    }  # fmt: skip
    return _figure(
        [trace], max(335, min(735, 105 + 26 * len(names))),
        xaxis={"title": {"text": "predicted"}, "type": "category", "automargin": True},
        yaxis={"title": {"text": "true"}, "type": "category", "autorange": "reversed", "automargin": True},
    )  # fmt: skip


def reliability(parts: Mapping[str, Mapping[str, Any]], unit: str) -> Figure:
    """Accuracy against confidence, bin by bin; on the diagonal a network is as right as it is sure.

    Args:
        parts: by network "ece" and the "bins".
        unit: what the samples are called.
    """
    traces: list[dict[str, Any]] = [
        {"type": "scatter", "mode": "lines", "x": [0, 1], "y": [0, 1], "showlegend": False, "hoverinfo": "skip",
         "line": {"dash": "dot", "width": 1, "color": COLOURS["baseline"]}}
    ]  # fmt: skip
    for part, found in parts.items():
        bins = [row for row in found["bins"] if row["count"]]
        most = max(row["count"] for row in bins)
        traces.append(
            {"type": "scatter", "mode": "lines+markers", "name": f"{part}, ECE {100 * found['ece']:.2f} %",
             "x": [row["confidence"] for row in bins], "y": [row["accuracy"] for row in bins],
             "text": [row["count"] for row in bins],
             "hovertemplate": f"%{{text}} {text(unit)}: sure %{{x:.3f}}, right %{{y:.3f}}",
             "marker": {"size": [6 + 12 * (row["count"] / most) ** 0.5 for row in bins]},
             "line": {"color": COLOURS[part], "width": 2}}
        )  # fmt: skip
    axis = {"range": [0, 1.02]}
    return _figure(
        traces, 335, xaxis={"title": {"text": "mean confidence"}, **axis}, yaxis={"title": {"text": "accuracy"}, **axis}
    )


def plane(found: Mapping[str, Any]) -> Figure:
    """Embeddings in the plane, coloured by true class; crosses are predicted wrongly."""
    traces = []
    for number, name in enumerate(sorted(dict.fromkeys(found["label"]))):
        at = [i for i, label in enumerate(found["label"]) if label == name]
        said, colour = [found["predicted"][i] for i in at], _CYCLE[number % 10]
        group: dict[str, Any] = {"type": "scatter", "mode": "markers", "name": text(name), "legendgroup": str(number)}
        traces.append({**group, "x": [None], "y": [None], "marker": {"size": 7, "color": colour}})  # in the legend
        traces.append(
            {**group, "showlegend": False, "x": [found["x"][i] for i in at], "y": [found["y"][i] for i in at],
             "text": [text(each) for each in said],
             "hovertemplate": f"{text(name).replace('%', '&#37;')}, predicted %{{text}}<extra></extra>",
             "marker": {"size": 7, "color": colour, "symbol": ["circle" if each == name else "x" for each in said]}}
        )  # fmt: skip
    hidden = {"visible": False}
    return _figure(traces, 355, xaxis=hidden, yaxis={**hidden, "scaleanchor": "x"}, hovermode="closest")


# --- a comparison -----------------------------------------------------------------------------------------------------


def ranking(rows: Sequence[Mapping[str, Any]], reference: str, several: bool, metric: Metric) -> Figure | None:
    """Mean paired difference of each method to the reference with its 95% interval, the best on top."""
    tested = [row for row in rows if (row["best"]["difference"] or {}).get("mean") is not None]
    if not tested:
        return None
    tested.sort(key=lambda row: row["best"]["difference"]["mean"], reverse=not metric.larger_is_better)
    found = [row["best"]["difference"] for row in tested]
    factor = 100 if metric.percent else 1
    trace = {
        "type": "scatter", "mode": "markers", "showlegend": False,
        "y": [text(row["method"]) + f"<br>{text(row['student'])}" * several for row in tested],
        "x": [factor * each["mean"] for each in found], "marker": {"size": 9, "color": COLOURS["student"]},
        "error_x": {"type": "data", "symmetric": False, "color": COLOURS["student"], "thickness": 1.5,
                    "array": [factor * (_bound(each, "high") - each["mean"]) for each in found],
                    "arrayminus": [factor * (each["mean"] - _bound(each, "low")) for each in found]},
    }  # fmt: skip
    zero = {"type": "line", "x0": 0, "x1": 0, "yref": "paper", "y0": 0, "y1": 1,
            "line": {"dash": "dash", "width": 1, "color": COLOURS["baseline"]}}  # fmt: skip
    what = "points over" if metric.percent else f"{text(metric.label)} less that of"
    title = {"text": f"{what} {text(reference)}"}
    axis = {"type": "category", "automargin": True}
    return _figure(
        [trace], 95 + (40 if several else 30) * len(tested), xaxis={"title": title}, yaxis=axis, shapes=[zero]
    )


def _bound(difference: Mapping[str, Any], side: str) -> float:
    """Return an end of the interval; the mean where one seed gives none."""
    return float(difference["mean"] if difference[side] is None else difference[side])


def metric_and_latency(
    rows: Sequence[Mapping[str, Any]],
    latency: Mapping[str, float],
    metric: Metric,
    unit: str,
    levels: Mapping[str, float] | None = None,
) -> Figure | None:
    """The metric on the test split against milliseconds for one sample; one point a method and student.

    Methods have one latency, their student's: their points stand side by side about it.

    Args:
        rows: of the comparison.
        latency: of each student, in milliseconds.
        metric, unit: the comparison's.
        levels: lines across, by name: what the teacher reaches, what guessing gives. One that is so far from all points
            that they would lie on one another is drawn once it is asked for, in the legend.
    """
    shown = [row for row in rows if row["student"] in latency and row["best"]["mean"] is not None]
    if not shown:
        return None
    traces, shape = [], "%{y:.2f} %" if metric.percent else "%{y:.4}"
    methods = list(dict.fromkeys(row["method"] for row in shown))
    widest = max(latency[row["student"]] for row in shown)
    aside = min(_ASIDE, _ASIDE_OF_ALL / max(1, len(methods) - 1)) * widest
    for number, method in enumerate(methods):
        own = [row for row in shown if row["method"] == method]
        shift = aside * (number - (len(methods) - 1) / 2)
        traces.append(
            {"type": "scatter", "mode": "markers", "name": text(method),
             "x": [latency[row["student"]] + shift for row in own],
             "y": [numbers.scaled(metric, row["best"]["mean"]) for row in own],
             "customdata": [latency[row["student"]] for row in own],
             "text": [text(row["student"]) for row in own], "marker": {"size": 10, "color": _CYCLE[number % 10]},
             "hovertemplate": f"%{{text}}: {shape} in %{{customdata:.2f}} ms",
             "error_y": {"type": "data", "array": [numbers.scaled(metric, row["best"]["sd"] or 0) for row in own],
                         "thickness": 1}}
        )  # fmt: skip
    reached = [row["best"]["mean"] for row in shown]
    traces += [_level(name, level, reached, widest, metric) for name, level in (levels or {}).items()]
    x = {"title": {"text": f"milliseconds for one {text(numbers.one(unit))}, median"}, "rangemode": "tozero"}
    y = {"title": {"text": text(numbers.on_axis(metric, "test"))}}
    return _figure(traces, 355, xaxis=x, yaxis=y, hovermode="closest")


def _level(name: str, level: float, reached: Sequence[float], widest: float, metric: Metric) -> dict[str, Any]:
    """Return a line across at a value that no student has."""
    low, high = min(reached), max(reached)
    far = max(low - level, level - high) > 4 * max(high - low, 0.02 * abs(high))
    value = numbers.scaled(metric, level)
    return {
        "type": "scatter", "mode": "lines", "name": f"{name} {text(numbers.value(metric, level))}",
        "x": [0, 1.15 * widest], "y": [value, value], "hoverinfo": "name", "visible": "legendonly" if far else True,
        "line": {"dash": "dash", "width": 1.5, "color": COLOURS.get(name, COLOURS["baseline"])},
    }  # fmt: skip


# --- a generated set --------------------------------------------------------------------------------------------------


def lengths(words: Mapping[str, Sequence[int]]) -> Figure | None:
    """How many samples have how many words, by kind; None without any."""
    traces = [
        {"type": "histogram", "name": text(kind), "x": list(counts), "nbinsx": 40, "opacity": 0.7,
         "marker": {"color": _CYCLE[number % 10]}}
        for number, (kind, counts) in enumerate(words.items())
    ]  # fmt: skip
    axes: dict[str, Any] = {"xaxis": {"title": {"text": "words"}}, "yaxis": {"title": {"text": "samples"}}}
    return _figure(traces, **axes, barmode="overlay") if traces else None
