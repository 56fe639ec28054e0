"""What a run's figures show and what they do not, and what to change: sentences for the terminal and the page."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdtool.events import Metric, several
from kdtool.recipe.schema import Recipe, Teacher
from kdtool.terminal import numbers
from kdtool.terminal.table import gain

Result = Mapping[str, Any]
Pair = tuple[Mapping[str, Any], Mapping[str, Any]]
"""A teacher, and what it reaches on the test split."""


def sentences(result: Result, recipe: Recipe, online: bool) -> list[str]:
    """Return the sentences that stand under a run's table; a command that is to be pasted ends one, behind a colon.

    Args:
        result: what ``result.json`` holds.
        recipe: the run's.
        online: its teachers are peers that trained along.
    """
    teachers = [] if online else _teachers(result)
    return [
        *_gain(result),
        *_chance(result, recipe),
        *_teacher(result, recipe, teachers),
        *_next(result, teachers),
    ]


def guessed(metric: Metric, value: float, chance: float | None, samples: int) -> bool:
    """Tell whether a value cannot be told from guessing: of a share, within three standard errors on so many samples."""
    if chance is None:
        return False
    error = 3 * math.sqrt(chance * (1 - chance) / max(1, samples)) if metric.percent else 0.0
    return metric.at_least_as_good(chance + error if metric.larger_is_better else chance - error, value)


def like_guessing(metric: Metric, value: float, chance: float, samples: int, unit: str) -> str:
    """Return a value beside guessing's: "top-1 12.00 % on 50 test images, where guessing gives 10.00 %"."""
    own, guess = numbers.value(metric, value), numbers.value(metric, chance)
    return f"{metric.label} {own} on {samples} test {unit}, where guessing gives {guess}"


def holds_zero(difference: Mapping[str, Any]) -> bool:
    """Tell whether a difference's interval holds zero, or there is none."""
    low, high = difference["low"], difference["high"]
    return low is None or (low <= 0 <= high)


def interval(metric: Metric, difference: Mapping[str, Any]) -> str:
    """Return a difference's interval as a gain's: "-1.20 to +19.50 points"; "" where there is none."""
    if difference["low"] is None:
        return ""
    ends = sorted(metric.gain(difference[side], 0.0) for side in ("low", "high"))
    low, high = (f"{end:+.2f}" if metric.percent else f"{end:+.4g}" for end in ends)
    return f"{low} to {high}{' points' if metric.percent else ''}"


def over_samples(metric: Metric, difference: Mapping[str, Any], unit: str) -> str:
    """Return what an interval over the test samples shows, as the end of a sentence."""
    many = f"{difference['samples']} test {unit}"
    found = f"over the {many} the 95% interval of the gain is {interval(metric, difference)}"
    return f"{found}, which {'holds zero, so it may be chance' if holds_zero(difference) else 'excludes zero'}"


def _gain(result: Result) -> Iterator[str]:
    gained, metric = result.get("gain"), Metric.of(result)
    if gained is None:
        labels = result["data"].get("classes") != 0  # without any, a student alone has nothing to learn
        if labels and result["method"] != "none" and result["test"].get("teacher") is not None:
            yield "What distilling adds is not known: --baseline trains the student alone on the same budget."
        return
    difference = result.get("difference")
    over = f"; {over_samples(metric, difference, result['unit'])}" if difference and difference["low"] is not None else ""
    yield gain(result, over)


def _chance(result: Result, recipe: Recipe) -> Iterator[str]:
    metric, test, chance = Metric.of(result), result["test"], result.get("chance")
    samples, unit = result["data"]["test"], result["unit"]
    if chance is None:
        return
    names = {"student": "The student", "baseline": "The student trained alone"}
    low = [part for part in names if test.get(part) and guessed(metric, test[part][metric.key], chance, samples)]
    for part in low:
        shown = like_guessing(metric, test[part][metric.key], chance, samples, unit)
        yield f"{names[part]} cannot be told from guessing: {shown}."
    if "student" in low:
        lr, epochs = recipe.optim.lr, recipe.train.epochs
        steps = f"{result['steps']} step{'s' * (result['steps'] != 1)}"
        yield (
            f"It may have learnt too fast (optim.lr={lr:g}) or too little (train.epochs={epochs}, {steps}); "
            "the log's losses tell which."
        )
    elif "baseline" in low:
        yield "A gain over that says that the budget is small, not that the method is good: raise train.epochs."


def _teacher(result: Result, recipe: Recipe, teachers: Sequence[Pair]) -> Iterator[str]:
    metric, alone = Metric.of(result), result["test"].get("baseline")
    for about, _ in teachers:
        if about.get("apart"):
            name = about["name"]
            yield f"The figures of teacher {name} are of rows of its own, and not to be compared with the student's."
    if alone is None:
        return
    for number, (about, found) in enumerate(teachers):
        if about.get("apart"):
            continue
        value, other = found[metric.key], alone[metric.key]
        shown = f"teacher {about['name']} reaches {metric.label} {numbers.value(metric, value)}"
        if metric.percent and value == other == 1:
            yield f"The {shown}, and so does the student trained alone: nothing is left to gain on this test split."
        elif not metric.at_least_as_good(value, other) or value == other:
            than = f"no more than the student trained alone ({numbers.value(metric, other)})"
            yield f"The {shown}, {than}: it has little to teach. {better_teacher(about, recipe.teacher[number])}"
        else:
            yield f"The {shown}, {numbers.gain(metric, metric.gain(value, other))} over the student trained alone."


def better_teacher(about: Mapping[str, Any], section: Teacher) -> str:
    """Return what to do about a weak teacher, by where its weights came from.

    Args:
        about: of the network: "name", "weights" (its origin) and "trained" (here, on the data).
        section: its part of the recipe.
    """
    if about.get("trained"):
        return f"Train it longer (teacher.train.epochs is {section.train.epochs}) or choose another."
    return f"{_whose(about['weights'])}: check that they are for these classes, in this order, or choose another."


def _whose(origin: str) -> str:
    kind, _, place = origin.partition(":")
    return f"Its weights are those of {place}" if kind == "file" else "Its weights came with it"


def _next(result: Result, teachers: Sequence[Pair]) -> Iterator[str]:
    gained, metric = result.get("gain"), Metric.of(result)
    if gained is None:
        return
    alone, method = result["test"]["baseline"][metric.key], result["method"]
    able = [found for about, found in teachers if not about.get("apart") and metric.gain(found[metric.key], alone) > 0]
    reached, chance = result["test"]["student"][metric.key], result.get("chance")
    learnt = not guessed(metric, reached, chance, result["data"]["test"])
    place = shlex.quote(f"{result['folder']}/recipe.yaml")
    compare = f"kdtool compare {place} --methods none,{method}"
    if gained < 0 and able and learnt:
        options = " and ".join(f"kdtool show {part}" for part in method.split("+"))
        yield (
            f"What may help: less weight on {method} beside the hard labels, and more epochs. `{options}` lists the "
            f"options, and this searches them: {compare} --tune 20"
        )
    if not result["chain"]:
        yield f"This is one seed; what others give: {compare} --seeds 5"


def _teachers(result: Result) -> list[Pair]:
    return list(zip(several(result.get("teacher")), several(result["test"].get("teacher")), strict=True))

