"""What ``kdtool eval`` found, as tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kdtool.events import Metric
from kdtool.terminal import words
from kdtool.terminal.table import width_for

MANY_CLASSES = 30
"""With more classes, only the worst are listed and the confusion matrix is left to --json."""

_METRICS = (("top-5", "top5"), ("macro recall", "macro_recall"), ("macro F1", "macro_f1"))
"""Figures of a classification beside its first."""

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
        _language(found, console)
        return
    console.print(_networks(found))
    if found["robustness"]:
        console.print(_robustness(found))
    console.print(_calibration(found["calibration"], unit))
    console.print(_classes(found["per_class"], unit))
    if len(found["per_class"]) <= MANY_CLASSES:
        console.print(_confusion(found["confusion"]))
    if found["bias"]:
        shifts = ", ".join(f"{words.clean(name)} {value:+g}" for name, value in found["bias"].items())
        console.print(Text(f"Added to the logits: {shifts}"))
    if found["predictions"]:
        console.print(Text(f"Predictions: {words.clean(found['predictions'])}"), soft_wrap=True)


def _language(found: Mapping[str, Any], console: Console) -> None:
    """Print what was found of networks that write."""
    shown = [each for each in _WRITING if found["metrics"].get(each[1]) is not None]
    titles = [title for title, _, _ in shown]
    table = _table("next token", "", "network", *titles, "agreement", "KL", "parameters", "size", left=2)
    target = {**found["target"], "metrics": found["metrics"]}
    for part, each in [*(("teacher", each) for each in found["teachers"]), (target["kind"], target)]:
        figures = [form(each["metrics"][key]) for _, key, form in shown]
        near = [words.percent(each["agreement"]), f"{each['kl']:.4f}"] if "kl" in each else ["", ""]
        shape = [words.count(each["params"]), words.size(each["bytes"])]
        _row(table, part, words.clean(each["name"]), *figures, *near, *shape, style="bold" if each is target else "")
    console.print(table)
    for teacher in found["teachers"]:
        rows = _table(f"beside {words.clean(teacher['name'])}", "place in a sample", "tokens", "agreement", "KL")
        for row in teacher["positions"]:
            where = f"{row['from']} to {row['to'] - 1}" if row["to"] is not None else f"from {row['from']}"
            _row(rows, where, str(row["tokens"]), words.percent(row["agreement"]), f"{row['kl']:.4f}")
        console.print(rows)
    for sample in (found["answers"] or {"samples": []})["samples"][:SHOWN_ANSWERS]:
        console.print(Text(f"\n{words.clean(sample['prompt'])}", style="bold"))
        for part, text in {"reference": sample["reference"], **sample["written"]}.items():
            console.print(Text(f"{part}: {words.clean(text)}"))


def _table(title: str, *columns: str, left: int = 1) -> Table:
    table = Table(title=title, title_justify="left")
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number < left else "right", overflow="fold")
    return table


def _row(table: Table, *cells: str, style: str = "") -> None:
    table.add_row(*(Text(cell) for cell in cells), style=style)


def _networks(found: Mapping[str, Any]) -> Table:
    correlation = ["MCC"] if _CORRELATION in found["metrics"] else []
    metric = Metric.of(found)
    shown = [
        (title, key) for title, key in ((metric.label, metric.key), *_METRICS) if found["metrics"].get(key) is not None
    ]
    titles = [*(title for title, _ in shown), *correlation, "ECE"]
    table = _table("accuracy", "", "network", *titles, "agreement", "KL", "parameters", "size", left=2)
    for teacher in found["teachers"]:
        with_it = [words.percent(teacher["agreement"]), f"{teacher['kl']:.4f}"]
        shape = [words.count(teacher["params"]), words.size(teacher["bytes"])]
        _row(table, "teacher", words.clean(teacher["name"]), *_figures(teacher["metrics"], shown), "", *with_it, *shape)
    target = found["target"]
    shape = [words.count(target["params"]), words.size(target["bytes"])]
    ece = words.percent(found["calibration"]["ece"])
    cells = [words.clean(target["name"]), *_figures(found["metrics"], shown), ece]
    _row(table, target["kind"], *cells, "", "", *shape, style="bold")
    return table


def _figures(metrics: Mapping[str, Any], shown: Sequence[tuple[str, str]]) -> list[str]:
    correlation = [f"{metrics[_CORRELATION]:.4f}"] if _CORRELATION in metrics else []
    return [*(words.percent(metrics[key]) for _, key in shown), *correlation]


def _robustness(found: Mapping[str, Any]) -> Table:
    metric = Metric.of(found)
    table = _table("robustness", "corruption", "severity", metric.label, "loses", "macro recall")
    for row in found["robustness"]:
        cells = (words.percent(row[metric.key]), f"{row['drop_points']:.2f} points", words.percent(row["macro_recall"]))
        _row(table, row["corruption"], str(row["severity"]), *cells)
    return table


def _calibration(found: Mapping[str, Any], unit: str) -> Table:
    title = f"calibration: ECE {words.percent(found['ece'])}, NLL {found['nll']:.4f}, Brier {found['brier']:.4f}"
    table = _table(title, "confidence between", unit, "mean confidence", "accuracy")
    for row in found["bins"]:
        if row["count"]:
            between = f"{row['lower']:.2f} and {row['upper']:.2f}"
            _row(table, between, str(row["count"]), words.percent(row["confidence"]), words.percent(row["accuracy"]))
    return table


def _classes(rows: Sequence[Mapping[str, Any]], unit: str) -> Table:
    shown, title = list(rows), "classes"
    if len(rows) > MANY_CLASSES:
        present = [row for row in rows if row["support"]]
        shown = sorted(present, key=lambda row: row["recall"])[:MANY_CLASSES]
        title = f"the {len(shown)} of {len(rows)} classes with the lowest recall (all in --json)"
    table = _table(title, "class", unit, "precision", "recall", "F1")
    for row in shown:
        shares = (words.percent(row[key]) for key in ("precision", "recall", "f1"))
        _row(table, words.clean(row["class"]), str(row["support"]), *shares)
    return table


def _confusion(found: Mapping[str, Any]) -> Table:
    names = [words.clean(name) for name in found["classes"]]
    table = _table("confusion: a row is the true class, a column the predicted one", "", *names)
    for number, (name, counts) in enumerate(zip(names, found["counts"], strict=True)):
        cells = [
            Text(str(count) if count else "·", style="bold" if i == number else "") for i, count in enumerate(counts)
        ]
        table.add_row(Text(name), *cells)
    return table
