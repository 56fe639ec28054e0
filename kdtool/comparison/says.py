"""What a comparison's numbers do and do not show, in plain sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdtool.events import Metric
from kdtool.registry import NONE
from kdtool.runs.verdict import guessed, over_samples
from kdtool.terminal import numbers


def sentences(found: Mapping[str, Any]) -> list[str]:
    """Return the sentences that stand under the table of a comparison's document."""
    parts = (_differences, _guessing, _teacher, _scope, _epochs, _budget, _searched, _failed)
    return [sentence for part in parts for sentence in part(found)]


def _differences(found: Mapping[str, Any]) -> Iterator[str]:
    reference, seeds = found["reference"], len(found["seeds"])
    rows = [row for row in found["rows"] if row["best"]["difference"]]
    tested = [row for row in rows if row["best"]["difference"]["p"] is not None]
    if not rows:
        yield "One method alone: there is nothing to compare it with."
    elif seeds == 1:
        yield "One seed: a difference shows nothing that another seed might not turn round."
        metric, unit = Metric.of(found), found.get("unit", "images")
        for row in rows:
            if (over := row["best"]["difference"].get("samples")) and over["low"] is not None:
                yield f"{_title(row, found)} less {reference}: {over_samples(metric, over, unit)}."
    elif tested:
        clear = [row for row in tested if _excludes_zero(row["best"]["difference"])]
        yield (
            f"Of {_plural(len(tested), 'paired difference')} to {reference}, {len(clear)} "
            f"exclude{'s' * (len(clear) == 1)} zero at 95 %{_named(clear, found)}."
        )
        if len(clear) < len(tested):
            rest = [row for row in tested if row not in clear]
            yield f"An interval that holds zero shows no difference, nor that there is none{_named(rest, found)}."
        if len(tested) > 1:
            kept = [row for row in tested if row["best"]["difference"]["p_holm"] < 0.05]
            chance = 1 - 0.95 ** len(tested)
            yield (
                f"{len(tested)} intervals of 95 % each: with no effect at all, one or more would exclude zero in up "
                f"to {100 * chance:.0f} % of such comparisons; held to 5 % together (Holm), {len(kept)} "
                f"remain{'s' * (len(kept) == 1)}{_named(kept, found)}."
            )


def _guessing(found: Mapping[str, Any]) -> Iterator[str]:
    metric, unit, samples = Metric.of(found), found.get("unit", "images"), found["data"]["test"]
    chance = next((run["chance"] for run in found["runs"] if run.get("chance") is not None), None)
    low = [
        f"{_title(row, found)} {numbers.value(metric, row['best']['mean'])}"
        for row in found["rows"]
        if row["best"]["mean"] is not None and guessed(metric, row["best"]["mean"], chance, samples)
    ]
    if low and chance is not None:
        guess = numbers.value(metric, chance)
        yield f"Cannot be told from guessing, which gives {guess} on the {samples} test {unit}: {', '.join(low)}."


def _teacher(found: Mapping[str, Any]) -> Iterator[str]:
    """Say a teacher that is no better than a student trained alone."""
    metric = Metric.of(found)
    reached = [run[f"teacher_{metric.key}"] for run in found["runs"] if run.get(f"teacher_{metric.key}") is not None]
    for row in found["rows"]:
        mean = row["best"]["mean"]
        if row["method"] == NONE and reached and mean is not None and metric.at_least_as_good(mean, reached[0]):
            yield (
                f"The teacher reaches {metric.label} {numbers.value(metric, reached[0])}, no more than "
                f"{_title(row, found)} ({numbers.value(metric, mean)}): it has little to teach."
            )


def _scope(found: Mapping[str, Any]) -> Iterator[str]:
    seeds = len(found["seeds"])
    if seeds > 1:
        yield (
            f"{seeds} seeds vary first weights, order and dropout on one data set and split, with one teacher and "
            "these options: the intervals say nothing of other data, other teachers or other settings."
        )
    if 1 < seeds < 5:
        yield f"With {seeds} seeds intervals are wide: that a difference is not shown says little."


def _epochs(found: Mapping[str, Any]) -> Iterator[str]:
    data, unit = found["data"], found.get("unit", "images")
    if found["selected"] == "best" and data["val"]:
        yield (
            f"The best epoch was chosen on {data['val']} validation {unit}, the test split ({data['test']} {unit}) was "
            "measured afterwards; the last epoch was not chosen by anything."
        )
    elif data.get("watch_test"):
        yield "Every epoch was shown on the test split (data.watch_test), and the last one counts."
    else:
        yield f"Nothing was chosen: the last epoch counts, measured on {data['test']} test {unit}."


def _budget(found: Mapping[str, Any]) -> Iterator[str]:
    for student in found["students"]:
        steps = {row["method"]: row["steps"] for row in found["rows"] if row["student"] == student and row["steps"]}
        if len({tuple(each) for each in steps.values()}) > 1 or any(len(each) > 1 for each in steps.values()):
            each = ", ".join(f"{method} {'/'.join(map(str, count))}" for method, count in steps.items())
            yield f"The budgets of {student} differ ({each} student steps), so its methods cannot be compared."
    if steps := found["budget"].get("extra"):
        each = ", ".join(f"{method} {count}" for method, count in steps.items())
        yield f"Steps that do not train the student come on top: {each}."
    if found["budget"].get("online"):
        yield f"{', '.join(found['budget']['online'])}: its peer is a second student of the same kind, not the teacher."


def _searched(found: Mapping[str, Any]) -> Iterator[str]:
    tuned = found["tuned"]
    if tuned:
        none = sorted({each["method"] for each in tuned if not each["searched"]})
        yield (
            f"Options were searched with {_plural(tuned[0]['asked'], 'trial')} for each method, on the validation "
            "split, with a seed that is not compared."
        )
        if none:
            yield f"Without options to search, and so with no trial: {', '.join(none)}."


def _failed(found: Mapping[str, Any]) -> Iterator[str]:
    for row in found["rows"]:
        if row["failed"]:
            seeds = ", ".join(map(str, row["failed"]))
            yield f"{_title(row, found)} failed with seed {seeds}; its figures are of the others."


def _excludes_zero(difference: Mapping[str, Any]) -> bool:
    return bool(difference["low"] > 0 or difference["high"] < 0)


def _named(rows: Sequence[Mapping[str, Any]], found: Mapping[str, Any]) -> str:
    metric = Metric.of(found)
    names = [f"{_title(row, found)} {numbers.difference(metric, row['best']['difference']['mean'])}" for row in rows]
    return f" ({', '.join(names)})" if names else ""


def _title(row: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    return f"{row['student']} {row['method']}" if len(found["students"]) > 1 else str(row["method"])


def _plural(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
