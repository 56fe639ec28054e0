"""Which methods can run on a pair of networks, found by building each of them on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from kdtool import registry
from kdtool.errors import InputError, KdtoolError
from kdtool.recipe import load as recipes
from kdtool.registry import tasks
from kdtool.runs.networks import Networks, further_views, make_method, tap_networks
from kdtool.tasks.task import Built, Task


def suitable(teacher: str, student: str, task: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield for every method {"name", "runs", "why"}: whether it can run on a pair, and the reason where it cannot.

    Networks have first weights, and the data are those that the task has by default.

    Args:
        teacher, student: models, as in a recipe.
        task: whose; default: the task of a recipe that names none.

    Raises:
        InputError: a network cannot be built.
    """
    named = task or tasks.default()
    base = {"task": named, "teacher.model": teacher, "student.model": student, "train.device": "cpu",
            "teacher.weights": "scratch", "student.weights": "scratch"}  # fmt: skip
    recipe, room = recipes.from_dict({**base, "method": registry.default()}), tasks.get(named)
    data = room.open(recipe)
    pair = room.student(recipe, data), room.teachers(recipe, data, False)
    tapped: dict[str, Networks] = {}  # what taps alike is measured once
    for entry in registry.entries():
        why = entry.error or _why_not(entry.name, base, room, data, *pair, tapped)
        yield {"name": entry.name, "runs": why is None, "why": why or ""}


def _why_not(
    name: str,
    base: dict[str, Any],
    task: Task,
    data: Any,
    student: Built,
    teachers: list[Built],
    tapped: dict[str, Networks],
) -> str | None:
    methods = {name: registry.get(name)}
    if methods[name].teachers[1] == 0:
        base, teachers = {**base, "teacher": []}, []
        base = {key: value for key, value in base.items() if not key.startswith("teacher.")}
    try:
        recipe = recipes.from_dict({**base, "method": name})
        task.check(recipe, methods)
        further_views(task, methods, recipe.options)
        if len(teachers) < methods[name].teachers[0]:
            raise InputError(f"it takes at least {methods[name].teachers[0]} teachers.")
        labels = torch.from_numpy(task.transfer_set(data, recipe).labels)
        key = repr((methods[name].taps(recipe.options[name]), methods[name].online, len(teachers)))
        if key not in tapped:
            tapped[key] = tap_networks(task, recipe.options, methods, student, teachers)
        networks = tapped[key]
        size = min(recipe.train.batch_size, len(labels))
        make_method(recipe, methods, networks, student.num_classes, labels, size)
    except KdtoolError as error:
        return str(error)
    return None
