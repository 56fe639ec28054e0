"""A run's chapter of the page: what every run has, and the cards that its task gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdtool.events import Metric, several
from kdtool.report import charts
from kdtool.report.made import card
from kdtool.report.sections import Chapter, Chart, Fact, Network, RunSections, Table
from kdtool.terminal import numbers, words
from kdtool.terminal.table import gain


def chapter(found: Mapping[str, Any], sections: RunSections) -> Chapter:
    """Return the chapter on a run.

    Args:
        found: what ``gather`` found: "folder", "about", "result", "log", "baseline_log" and what ``made`` found.
        sections: of its task.
    """
    about, result, log = found["about"], found["result"], found["log"]
    metric = Metric.of(result)
    networks = sections.networks or measured(result)
    return Chapter(
        found["folder"],
        sentences=[_sentence(about, result, sections.inputs), *(result.get("says") or filter(None, [gain(result)]))],
        notes=sections.notes,
        facts=[*_facts(result, networks, metric), *sections.facts],
        cards=[
            _table(networks, metric),
            Chart("Loss terms", charts.losses(log) if log else None, "Each with its weight, mean of an epoch."),
            Chart(numbers.heading(metric), charts.selected(log, found["baseline_log"], metric)),
            Chart("Learning rate", charts.rates(log) if log else None),
            *sections.cards,
            card(found["folder"], found, result),
        ],
    )


def measured(result: Mapping[str, Any]) -> list[Network]:
    """Return the networks as the run itself measured them at its end."""
    metric, test = Metric.of(result), result.get("test") or {}
    teachers, reached = several(result.get("teacher")), several(test.get("teacher"))
    named = words.numbered(teachers)
    lines = [(part, about, metrics) for (part, about), metrics in zip(named, reached, strict=False)]
    lines += [(part, result["student"], test[part]) for part in ("student", "baseline") if test.get(part)]
    return [
        Network(
            part,
            about["name"],
            metrics.get(metric.key),
            params=about.get("params"),
            macs=about.get("macs"),
            bytes=about.get("bytes"),
        )
        for part, about, metrics in lines
    ]


def _sentence(about: Mapping[str, Any], result: Mapping[str, Any], inputs: str) -> str:
    pair = f"{about['student']} from {' and '.join(about['teacher'])}" if about["teacher"] else about["student"]
    data, unit = result.get("data") or {}, result.get("unit", "images")
    on = f", measured on {data['test']} test {unit} of {data['name']}" if data else ""
    return f"{pair} by {about['method']}{on}{f' {inputs}' if inputs else ''}."


def _facts(result: Mapping[str, Any], networks: Sequence[Network], metric: Metric) -> list[Fact]:
    student = next((each for each in networks if each.part == "student"), None)
    teacher = next((each for each in networks if each.part.startswith("teacher")), None)
    gained = result.get("gain", result.get("gain_points"))
    pairs = [(f"student {metric.label}", numbers.value(metric, student.value))] if student else []
    pairs += [("gain over baseline", numbers.gain(metric, gained))] if gained is not None else []
    if student and teacher and student.params and teacher.params:
        pairs += [(f"teacher {metric.label}", numbers.value(metric, teacher.value))]
        pairs += [("smaller than the teacher", f"{teacher.params / student.params:.1f} times")]
    return pairs


def _table(networks: Sequence[Network], metric: Metric) -> Table:
    more = list(dict.fromkeys(title for network in networks for title in network.more))
    return Table(
        "Networks",
        ["", "network", metric.label, *more, "parameters", "MACs", "file"],
        [
            [each.part, each.name, numbers.value(metric, each.value), *(each.more.get(title, "-") for title in more),
             words.count(each.params), words.count(each.macs), words.size(each.bytes)]
            for each in networks
        ],
        numbers=2,
        main=next((row for row, each in enumerate(networks) if each.part == "student"), None),
    )  # fmt: skip
