"""A run's part of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdtool.report import charts
from kdtool.report.html import Page, box, escape, facts, grid, samples, soft, table
from kdtool.terminal import words
from kdtool.terminal.table import gain

_METRICS = (("top-1", "top1"), ("top-5", "top5"), ("macro recall", "macro_recall"), ("macro F1", "macro_f1"))


def add_run(page: Page, found: Mapping[str, Any]) -> None:
    """Add what ``gather`` found of a run."""
    about, evaluation, baseline = found["about"], found["evaluation"], found["baseline"]
    teachers = evaluation["teachers"]
    pair = f"{about['student']} from {' and '.join(about['teacher'])}" if about["teacher"] else about["student"]
    page.head(found["folder"])
    data = evaluation["data"]
    size = f"{data['image_size']}x{data['image_size']}"
    page.add(f"<p>{escape(pair)} by {escape(about['method'])}, measured on {data['images']} test images of "
             f"{escape(data['name'])} at {size}.</p>")  # fmt: skip
    page.add(f"<p>{escape(gain(found['result']))}</p>", *(soft(note) for note in found["notes"]))
    page.add(facts(_facts(found)))
    rows = class_rows(evaluation, baseline)
    soft_labels, planes = found["samples"]["soft_labels"], found["samples"]["embeddings"]
    calibrations = {"teacher": teachers[0]["calibration"]} if teachers else {}
    calibrations |= {"baseline": baseline["calibration"]} if baseline else {}
    calibrations |= {"student": evaluation["calibration"]}
    log = found["log"]
    page.add(
        grid(
            [
                box("Networks", _networks(found), wide=True),
                page.card("Loss terms", charts.losses(log) if log else None, "Each with its weight, mean of an epoch."),
                page.card("Accuracy", charts.accuracies(log, found["baseline_log"])),
                page.card("Learning rate", charts.rates(log) if log else None),
                page.card("Reliability", charts.reliability(calibrations), "The larger a mark, the more images."),
                page.card(
                    "Classes: the student's recall less that of others",
                    charts.class_changes(rows),
                    "To the right the student is better.",
                ),
                page.card("Confusion", charts.confusion(evaluation["confusion"]), "The student's; shade by share."),
                box("Classes", _classes(rows), wide=True),
                box("Soft labels", _soft_labels(found["samples"], soft_labels), wide=True) if soft_labels else "",
                *(
                    page.card(f"Embedding of the {part}", charts.plane(plane) if plane else None, _PLANE)
                    for part, plane in planes.items()
                ),
            ]
        )
    )


_PLANE = "t-SNE of test images. Crosses are predicted wrongly; distances between clusters mean little."


def class_rows(evaluation: Mapping[str, Any], baseline: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return each class's support and recall by network; None where there is none."""
    teachers = evaluation["teachers"]
    alone = {row["class"]: row["recall"] for row in baseline["per_class"]} if baseline else {}
    taught = {row["class"]: row["recall"] for row in teachers[0]["per_class"]} if teachers else {}
    return [
        {
            "class": row["class"],
            "support": row["support"],
            "teacher": taught.get(row["class"]),
            "student": row["recall"],
            "baseline": alone.get(row["class"]),
        }
        for row in evaluation["per_class"]
    ]


def _facts(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    evaluation, gained = found["evaluation"], found["about"]["gain_points"]
    target, teachers = evaluation["target"], evaluation["teachers"]
    pairs = [("student top-1", words.percent(evaluation["metrics"]["top1"]))]
    pairs += [("gain over baseline", f"{gained:+.2f} points")] if gained is not None else []
    if teachers and target["params"] and teachers[0]["params"]:
        pairs += [("teacher top-1", words.percent(teachers[0]["metrics"]["top1"]))]
        pairs += [("smaller than the teacher", f"{teachers[0]['params'] / target['params']:.1f} times")]
        pairs += [("agrees with the teacher", words.percent(teachers[0]["agreement"]))]
    return [*pairs, ("calibration error", words.percent(evaluation["calibration"]["ece"]))]


def _networks(found: Mapping[str, Any]) -> str:
    evaluation, baseline = found["evaluation"], found["baseline"]
    teachers = evaluation["teachers"]
    name = found["result"]["student"]["name"]
    lines = [(f"teacher {i}" if len(teachers) > 1 else "teacher", each, each["name"], each["agreement"])
             for i, each in enumerate(teachers, 1)]  # fmt: skip
    lines += [("student", {**evaluation, **evaluation["target"]}, name, None)]
    lines += [("baseline", {**baseline, **baseline["target"]}, name, None)] if baseline else []
    titles = ["", "network", *(title for title, _ in _METRICS), "ECE", "student agrees", "parameters", "MACs", "file"]
    rows = [
        [part, network, *(words.percent(about["metrics"].get(key)) for _, key in _METRICS),
         words.percent(about["calibration"]["ece"]), words.percent(agrees), words.count(about["params"]),
         words.count(about["macs"]), words.size(about["bytes"])]
        for part, about, network, agrees in lines
    ]  # fmt: skip
    return table(titles, rows, numbers=2, main=len(teachers))


def _classes(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table behind the chart, shut where it is long."""
    parts = [part for part in ("teacher", "student", "baseline") if any(row[part] is not None for row in rows)]
    cells = [[row["class"], str(row["support"]), *(words.percent(row[part]) for part in parts)] for row in rows]
    whole = table(["class", "images", *(f"{part}'s recall" for part in parts)], cells, numbers=1)
    return whole if len(rows) <= 12 else f"<details><summary>all {len(rows)}</summary>{whole}</details>"


def _soft_labels(found: Mapping[str, Any], images: Sequence[Mapping[str, Any]]) -> str:
    t = found["temperature"]
    at = f"at T = 1 and at the method's T = {t:g}" if t and t != 1 else "at T = 1"
    half = len(images) // 2
    chosen = f"of {found['images']}, the {half} with the least certain soft labels and {len(images) - half} others"
    return soft(f"Top classes {at}; {chosen}.") + samples(images)
