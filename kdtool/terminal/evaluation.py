"""What ``kdtool eval`` found, as tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console, RenderableType
from rich.text import Text

from kdtool.events import Metric
from kdtool.terminal import numbers, words
from kdtool.terminal.grid import Grid, fits, fitted
from kdtool.terminal.table import width_for

MANY_CLASSES = 30
"""With more classes, only the worst are listed and the confusion matrix is left to --json."""

_METRICS = (("top-5", "top5"), ("macro recall", "macro_recall"), ("macro F1", "macro_f1"))
"""Figures of a classification beside its first."""

_BESIDE = (("macro recall", "macro_recall"), ("macro F1", "macro_f1"), ("linear probe", "probe"))
"""What damaged inputs are measured by beside the first figure: the first of these that there is."""

_CORRELATION = "mcc"
"""A metric in [-1, 1], which is no share and that not every task has."""


SHOWN_ANSWERS = 3
"""Answers that are printed; --json has all."""

_WRITING: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("perplexity", "perplexity", "{:.4g}".format),
    ("nats a token", "nll", "{:.4f}".format),
    ("top-1", "top1", words.percent),
    ("ROUGE-L", "rouge_l", words.percent),
    ("exact match", "exact_match", words.percent),
)


def show(found: Mapping[str, Any], stream: TextIO) -> None:
    """Print an evaluation's tables."""
    console = Console(file=stream, highlight=False, width=width_for(stream))
    data = found["data"]
    unit = str(data["unit"])
    about = f"{words.clean(data['name'])}, split {data['split']}: {data['samples']} {unit} {data['inputs']}"
    console.print(Text(about.rstrip()))
    if "calibration" not in found:
        (_language if "answers" in found else _plain)(found, console)
        return
    grids = [_networks(found), *([_robustness(found)] if found["robustness"] else [])]
    for grid in [*grids, _calibration(found["calibration"], unit), _classes(found["per_class"], unit)]:
        console.print(fitted(grid, console.width))
    if len(found["per_class"]) <= MANY_CLASSES:
        console.print(_confusion(found["confusion"], console.width))
    _given(found, console)


def _given(found: Mapping[str, Any], console: Console) -> None:
    """Print what was asked for besides: shifted logits, and a file."""
    if found["bias"]:
        shifts = ", ".join(f"{words.clean(name)} {value:+g}" for name, value in found["bias"].items())
        console.print(Text(f"Added to the logits: {shifts}"))
    if found["predictions"]:
        console.print(Text(f"Predictions: {words.clean(found['predictions'])}"), soft_wrap=True)


def _language(found: Mapping[str, Any], console: Console) -> None:
    """Print what was found of networks that write."""
    shown = [each for each in _WRITING if found["metrics"].get(each[1]) is not None]
    titles = [title for title, _, _ in shown]
    titles = ["", "network", *(title for title, _, _ in shown), "agreement", "KL", "parameters", "size"]
    target, rows = {**found["target"], "metrics": found["metrics"]}, []
    for part, each in [*(("teacher", each) for each in found["teachers"]), (target["kind"], target)]:
        figures = [form(each["metrics"][key]) if key in each["metrics"] else "-" for _, key, form in shown]
        near = [words.percent(each["agreement"]), f"{each['kl']:.4f}"] if "kl" in each else ["", ""]
        shape = [words.count(each["params"]), words.size(each["bytes"])]
        rows.append([part, words.clean(each["name"]), *figures, *near, *shape])
    console.print(fitted(Grid(titles, rows, 2, "next token", len(rows) - 1), console.width))
    for teacher in found["teachers"]:
        beside = [
            [
                f"{row['from']} to {row['to'] - 1}" if row["to"] is not None else f"from {row['from']}",
                str(row["tokens"]), words.percent(row["agreement"]), f"{row['kl']:.4f}",
            ]
            for row in teacher["positions"]
        ]  # fmt: skip
        titles = ["place in a sample", "tokens", "agreement", "KL"]
        console.print(fitted(Grid(titles, beside, title=f"beside {words.clean(teacher['name'])}"), console.width))
    for sample in (found["answers"] or {"samples": []})["samples"][:SHOWN_ANSWERS]:
        console.print(Text(f"\n{words.clean(sample['prompt'])}", style="bold"))
        for part, text in {"reference": sample["reference"], **sample["written"]}.items():
            console.print(Text(f"{part}: {words.clean(text)}"))


SHARES = (("macro F1", "macro_f1"), ("micro F1", "micro_f1"), ("exact", "exact"), ("linear probe", "probe"))
"""Figures of embeddings, and where a sample has several classes, beside the first, with their titles."""


def _plain(found: Mapping[str, Any], console: Console) -> None:
    """Print what was found of networks that give embeddings, or tell several classes of a sample."""
    metric = Metric.of(found)
    shown = [(title, key) for title, key in SHARES if found["metrics"].get(key) is not None]
    titles = ["", "network", metric.label, *(title for title, _ in shown), "parameters", "size"]
    target, rows = {**found["target"], "metrics": found["metrics"]}, []
    for part, each in [*(("teacher", each) for each in found["teachers"]), (target["kind"], target)]:
        figures = [numbers.value(metric, each["metrics"][metric.key]), *_figures(each["metrics"], shown)]
        shape = [words.count(each["params"]), words.size(each["bytes"])]
        rows.append([part, words.clean(each["name"]), *figures, *shape])
    console.print(fitted(Grid(titles, rows, 2, str(found["data"]["split"]), len(rows) - 1), console.width))
    if found["robustness"]:
        console.print(fitted(_robustness(found), console.width))
    if found.get("per_class"):
        console.print(fitted(_classes_apart(found["per_class"], str(found["data"]["unit"])), console.width))
    _given(found, console)


def _classes_apart(rows: Sequence[Mapping[str, Any]], unit: str) -> Grid:
    """Return classes that are each told on their own, the worst first; those that no sample has at the end."""
    known = sorted((row for row in rows if row["ap"] is not None), key=lambda row: float(row["ap"]))
    absent = [row for row in rows if row["ap"] is None]
    title = "classes, the worst first"
    if len(rows) > MANY_CLASSES:
        title = f"the worst {MANY_CLASSES} of {len(rows)} classes (all in --json)"
    lines = [
        [words.clean(row["class"]), str(row["support"]), words.percent(row["ap"]), words.percent(row["f1"])]
        for row in (*known, *absent)[:MANY_CLASSES]
    ]
    return Grid(["class", unit, "average precision", "F1"], lines, 1, title)


def _networks(found: Mapping[str, Any]) -> Grid:
    correlation = ["MCC"] if _CORRELATION in found["metrics"] else []
    metric = Metric.of(found)
    shown = [
        (title, key) for title, key in ((metric.label, metric.key), *_METRICS) if found["metrics"].get(key) is not None
    ]
    titles = [
        "",
        "network",
        *(title for title, _ in shown),
        *correlation,
        "ECE",
        "agreement",
        "KL",
        "parameters",
        "size",
    ]
    rows = []
    for teacher in found["teachers"]:
        with_it = [words.percent(teacher["agreement"]), f"{teacher['kl']:.4f}"]
        shape = [words.count(teacher["params"]), words.size(teacher["bytes"])]
        name = words.clean(teacher["name"])
        rows.append(["teacher", name, *_figures(teacher["metrics"], shown), "", *with_it, *shape])
    target = found["target"]
    shape = [words.count(target["params"]), words.size(target["bytes"])]
    figures = [*_figures(found["metrics"], shown), words.percent(found["calibration"]["ece"])]
    rows.append([target["kind"], words.clean(target["name"]), *figures, "", "", *shape])
    return Grid(titles, rows, 2, "accuracy", len(rows) - 1)


def _figures(metrics: Mapping[str, Any], shown: Sequence[tuple[str, str]]) -> list[str]:
    correlation = [f"{metrics[_CORRELATION]:.4f}"] if _CORRELATION in metrics else []
    return [*(words.percent(metrics[key]) for _, key in shown), *correlation]


def _robustness(found: Mapping[str, Any]) -> Grid:
    metric, rows = Metric.of(found), found["robustness"]
    more = [(title, key) for title, key in _BESIDE if rows[0].get(key) is not None][:1]
    lines = [
        [
            row["corruption"],
            str(row["severity"]),
            numbers.value(metric, row[metric.key]),
            f"{row['drop_points']:.2f} points" if metric.percent else f"{row['drop_points']:.4g}",
            *(words.percent(row[key]) for _, key in more),
        ]
        for row in rows
    ]
    titles = ["corruption", "severity", metric.label, "loses", *(title for title, _ in more)]
    return Grid(titles, lines, title="robustness")


def _calibration(found: Mapping[str, Any], unit: str) -> Grid:
    rows = [
        [f"{row['lower']:.2f} and {row['upper']:.2f}", str(row["count"]), words.percent(row["confidence"]),
         words.percent(row["accuracy"])]
        for row in found["bins"]
        if row["count"]
    ]  # fmt: skip
    title = f"calibration: ECE {words.percent(found['ece'])}, NLL {found['nll']:.4f}, Brier {found['brier']:.4f}"
    return Grid(["confidence between", unit, "mean confidence", "accuracy"], rows, title=title)


def _classes(rows: Sequence[Mapping[str, Any]], unit: str) -> Grid:
    shown, title = list(rows), "classes"
    if len(rows) > MANY_CLASSES:
        present = [row for row in rows if row["support"]]
        shown = sorted(present, key=lambda row: row["recall"])[:MANY_CLASSES]
        title = f"the {len(shown)} of {len(rows)} classes with the lowest recall (all in --json)"
    cells = [
        [
            words.clean(row["class"]),
            str(row["support"]),
            *(words.percent(row[key]) for key in ("precision", "recall", "f1")),
        ]
        for row in shown
    ]
    return Grid(["class", unit, "precision", "recall", "F1"], cells, title=title)


def _confusion(found: Mapping[str, Any], width: int) -> RenderableType:
    """Return the matrix; its columns are called by numbers where names are too wide, and left out where these are."""
    names = [words.clean(name) for name in found["classes"]]
    counts = [[str(count) if count else "·" for count in row] for row in found["counts"]]
    title = "confusion: a row is the true class, a column the predicted one"
    numbered = [f"{number}" for number in range(len(names))]
    for rows, columns in ((names, names), ([f"{n} {name}" for n, name in enumerate(names)], numbered)):
        grid = Grid(["", *columns], [[name, *row] for name, row in zip(rows, counts, strict=True)], title=title)
        if fits(grid, width):
            return fitted(grid, width)
    return Text("The confusion matrix is wider than the screen; --json has it.")
