"""What the page shows where a sample has not one class: several, each on its own, or none that was learnt from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kdtool.events import Metric
from kdtool.report import charts
from kdtool.report.sections import Chart, Network, RunSections, Section
from kdtool.tasks.common.page import class_rows, classes
from kdtool.tasks.common.targets import result_of
from kdtool.tasks.task import Say
from kdtool.terminal import words
from kdtool.terminal.evaluation import SHARES

AP = "average precision"


def plain_page_of_run(run: Path, say: Say, evaluate: Callable[[Path], dict[str, Any]], *, unit: str) -> RunSections:
    """Return what a run's page shows: student, teachers and baseline measured again, class by class.

    Args:
        run: its folder.
        say: takes sentences for the user.
        evaluate: measures a network on the run's test split, see ``kdtool.tasks.common.plain_evaluation``.
        unit: what the samples are called.
    """
    say(f"{run}: measuring on the test split")
    evaluation = evaluate(run)
    alone = run / "baseline" / "student"
    baseline = evaluate(alone) if alone.is_dir() else None
    result = result_of(run)
    return RunSections(
        _cards(evaluation, baseline, unit) if "per_class" in evaluation else (),
        _networks(evaluation, baseline, result["student"]["name"], Metric.of(result)),
        inputs=evaluation["data"]["inputs"],
        notes=list(dict.fromkeys(evaluation["notes"])),
        document={"evaluation": evaluation, "baseline": baseline},
    )


def _cards(evaluation: Mapping[str, Any], baseline: Mapping[str, Any] | None, unit: str) -> list[Section]:
    rows = class_rows(evaluation, baseline, "ap")
    about = "To the right the student is better."
    return [
        Chart(f"Classes: the student's {AP} less that of others", charts.class_changes(rows, AP), about),
        classes(rows, unit, AP),
    ]


def _networks(
    evaluation: Mapping[str, Any], baseline: Mapping[str, Any] | None, student: str, metric: Metric
) -> list[Network]:
    lines = [(part, each, each["name"]) for part, each in words.numbered(evaluation["teachers"])]
    lines += [("student", {**evaluation, **evaluation["target"]}, student)]
    lines += [("baseline", {**baseline, **baseline["target"]}, student)] if baseline else []
    return [
        Network(
            part,
            name,
            about["metrics"].get(metric.key),
            {title: words.percent(found) for title, key in SHARES if (found := about["metrics"].get(key)) is not None},
            about["params"],
            about["macs"],
            about["bytes"],
        )
        for part, about, name in lines
    ]
