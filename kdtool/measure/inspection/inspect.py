"""``kdtool.inspect``: teacher and student side by side, and what a method would make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from kdtool import registry
from kdtool.engine.composition import combined_taps
from kdtool.engine.plan import plan_stages
from kdtool.errors import InputError
from kdtool.measure.inspection.stages import stages
from kdtool.measure.inspection.step import steps, tap_bytes
from kdtool.method import Taps, TapSpec
from kdtool.recipe import load as recipes
from kdtool.recipe.schema import Recipe
from kdtool.tasks.images.data.sources import default_image_size, open_data, thin
from kdtool.tasks.images.models.built import Built
from kdtool.tasks.images.models.measure import macs, parameters
from kdtool.tasks.images.networks import Networks, build_student, build_teachers, make_method, tap_networks


def inspect(recipe: Recipe | Mapping[str, Any] | str | Path | None = None) -> dict[str, Any]:
    """Look at a pair and a method without training or writing anything.

    Args:
        recipe: as for ``kdtool.run``.

    Returns:
        "networks" (each with its part, name, image size, totals and "stages"), "pairs" (by role: layer and shape on
        either side), "steps" (by stage of the method: terms, alignments, MACs of a step), "tap_bytes", "batch_size",
        and "problem": why the method cannot be applied to the pair, None where it can.

    Raises:
        InputError: the recipe is wrong, or a network cannot be built.
    """
    checked = _read(recipe)
    methods = {name: registry.get(name) for name in recipes.parts(checked)}
    online = any(method.online for method in methods.values())
    data = open_data(checked.data, stream=checked.train.steps is not None)
    size, classes = checked.data.image_size or default_image_size(data.native_size), len(data.class_names)
    student, teachers = build_student(checked, classes, size), build_teachers(checked, classes, size, online)
    result: dict[str, Any] = {
        "method": checked.method,
        "networks": [*(_about("peer" if online else "teacher", each) for each in teachers), _about("student", student)],
        "pairs": [],
        "steps": [],
        "tap_bytes": 0,
        "batch_size": checked.train.batch_size,
        "problem": None,
    }
    try:
        networks = tap_networks(checked, methods, student, teachers)
        result["pairs"] = _pairs(checked, methods, networks)
        result["tap_bytes"] = tap_bytes(list(networks.shapes), checked.train.batch_size)
        labels = torch.from_numpy(thin(data.train, checked.data, data.class_names).labels)
        batch_size = min(checked.train.batch_size, len(labels))
        made = make_method(checked, methods, networks, classes, labels if data.stream is None else None, batch_size)
        planned = plan_stages(made, checked.train.epochs, checked.train.task_weight)
        result["steps"] = steps(checked, networks, made, planned, classes, online)
        result["method_params"] = parameters(made) if made is not None else 0
    except InputError as error:
        result["problem"] = str(error)
    return result


def _read(recipe: Recipe | Mapping[str, Any] | str | Path | None) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipes.validate(recipe)
    return recipes.from_dict(recipe) if isinstance(recipe, Mapping) else recipes.load(recipe)


def _about(part: str, built: Built) -> dict[str, Any]:
    try:
        found, note = stages(built.tapped(), built.image_size), None
    except InputError as error:
        found, note = [], str(error)
    return {
        "part": part,
        "name": built.name,
        "image_size": built.image_size,
        "params": parameters(built.module),
        "macs": macs(built.module, built.image_size),
        "stages": found,
        "note": note,
    }


def _pairs(recipe: Recipe, methods: Mapping[str, Any], networks: Networks) -> list[dict[str, Any]]:
    """Return what is tapped, a line a pair: roles of one name, the others in order, and their layers in order."""
    taps = combined_taps(methods, recipe.options) if methods else Taps()
    alone = [
        [role for role in taps.student if role not in taps.teacher],
        [role for role in taps.teacher if role not in taps.student],
    ]
    both = [role for role in taps.student if role in taps.teacher]
    roles = list(zip_longest(both + alone[0], both + alone[1]))
    lines = []
    for number, shapes in enumerate(networks.shapes[1] or [{}]):
        for ours, theirs in roles:
            left = _layers(taps.student, networks.shapes[0], ours)
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
