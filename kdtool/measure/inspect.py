"""``kdtool.inspect``: teacher and student side by side, and what a method would make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from kdtool.engine.composition import composed
from kdtool.errors import InputError
from kdtool.events import Reporter
from kdtool.measure.inspected_step import steps, tap_bytes
from kdtool.method import TapSpec
from kdtool.recipe import load as recipes
from kdtool.recipe.schema import Recipe
from kdtool.runs.setting import Setting, build_pair, complete
from kdtool.tasks.common.cost import macs, parameters
from kdtool.tasks.task import Built, Task

BANDS = 10
"""Of lengths, at most."""


def inspect(recipe: Recipe | Mapping[str, Any] | str | Path | None = None) -> dict[str, Any]:
    """Look at a pair and a method without training or writing anything.

    Args:
        recipe: as for ``kdtool.run``.

    Returns:
        "unit" (what samples are called), "networks" (each with its part, name, what "input" it was looked at with,
        totals and "stages"), "pairs" (by role: layer and shape on either side), "steps" (by stage of the method:
        terms, alignments, MACs of a step), "sample" (of the training set, where it can be read: each piece of its text
        and whether it is learnt), "lengths" (how many training samples have how many tokens),
        "tap_bytes", "batch_size", "notes" (how a stream is read, and what is made of several methods' weights), and
        "problem": why the method cannot be applied to the pair, None where it can.

    Raises:
        InputError: the recipe is wrong, or a network cannot be built.
    """
    checked = _read(recipe)
    pair = build_pair(checked, Reporter())
    part = "peer" if pair.online else "teacher"
    result: dict[str, Any] = {
        "method": checked.method,
        "unit": pair.task.unit,
        "networks": [
            *(_about(part, each, pair.task) for each in pair.teachers),
            _about("student", pair.student, pair.task),
        ],
        "pairs": [],
        "steps": [],
        "sample": [],
        "lengths": [],
        "tap_bytes": 0,
        "batch_size": checked.train.batch_size,
        "notes": [],
        "problem": None,
    }
    try:
        setting = complete(pair, Reporter())
        result["sample"] = setting.task.sample(setting.data)
        result["lengths"] = _lengths(
            setting.task.token_counts(setting.transfer_set, setting.student, setting.train_batches)
        )
        result["pairs"] = _pairs(setting)
        result["tap_bytes"] = tap_bytes(list(setting.networks.shapes), checked.train.batch_size)
        result["steps"] = steps(setting)
        told = [setting.told] if setting.data.stream is not None else []
        result["notes"] = told + composed(setting.method, setting.stages[-1].stage.task_weight)
        result["method_params"] = parameters(setting.method) if setting.method is not None else 0
    except InputError as error:
        result["problem"] = str(error)
    return result


def _lengths(found: np.ndarray | None) -> list[dict[str, int]]:
    """Return how many training samples have how many tokens, in bands; [] where they have no lengths."""
    if found is None or not len(found):
        return []
    low, high = int(found.min()), int(found.max())
    width = -(-(high - low + 1) // BANDS)
    counts = np.bincount((found - low) // width)
    return [{"from": low + i * width, "to": low + (i + 1) * width - 1, "samples": int(count)}
            for i, count in enumerate(counts)]  # fmt: skip


def _read(recipe: Recipe | Mapping[str, Any] | str | Path | None) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipes.validate(recipe)
    return recipes.from_dict(recipe) if isinstance(recipe, Mapping) else recipes.load(recipe)


def _about(part: str, built: Built, task: Task) -> dict[str, Any]:
    try:
        found, note = task.stages(built), None
    except InputError as error:
        found, note = [], str(error)
    return {
        "part": part,
        "name": built.name,
        **built.describe(),
        "input": built.dry_input(),
        "params": parameters(built.module),
        "macs": macs(built.tapped(), built.dry_inputs(1)),
        "stages": found,
        "note": note,
    }


def _pairs(setting: Setting) -> list[dict[str, Any]]:
    """Return what is tapped, a line a pair: roles of one name, the others in order, and their layers in order."""
    taps, (ours_by_role, theirs_by_teacher) = setting.networks.taps, setting.networks.shapes
    alone = [
        [role for role in taps.student if role not in taps.teacher],
        [role for role in taps.teacher if role not in taps.student],
    ]
    both = [role for role in taps.student if role in taps.teacher]
    roles = list(zip_longest(both + alone[0], both + alone[1]))
    lines = []
    for number, shapes in enumerate(theirs_by_teacher or [{}]):
        for ours, theirs in roles:
            left = _layers(taps.student, ours_by_role, ours)
            right = _layers(taps.teacher, shapes, theirs)
            for student, teacher in zip_longest(left, right):
                name = ours if ours == theirs else " / ".join(filter(None, (ours, theirs)))
                lines.append({"role": name, "student": student, "teacher": teacher, "teacher_number": number})
    return lines


def _layers(taps: TapSpec, shapes: Mapping[str, Any], role: str | None) -> list[dict[str, Any]]:
    """Return layer and shape of what one role taps; nothing without a role."""
    if role is None or role not in shapes:
        return []
    layers, found = taps[role], shapes[role]
    if isinstance(layers, Sequence) and not isinstance(layers, str):
        return [{"layer": layer, "shape": shape} for layer, shape in zip(layers, found, strict=True)]
    return [{"layer": layers, "shape": found}]
