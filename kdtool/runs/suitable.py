"""Which methods can run on a pair of networks, found by building each of them on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from kdtool import registry
from kdtool.errors import KdtoolError
from kdtool.recipe.load import from_dict, with_method
from kdtool.recipe.schema import Recipe
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
    recipe, room = from_dict({**base, "method": registry.default()}), tasks.get(named)
    data = room.open(recipe)
    pair = room.student(recipe, data), room.teachers(recipe, data, False)
    labels = torch.from_numpy(room.transfer_set(data, recipe).labels)
    tapped: dict[str, Networks] = {}  # what taps alike is measured once
    for entry in registry.entries():
        why = entry.error or _why_not(entry.name, recipe, room, labels, *pair, tapped)
        yield {"name": entry.name, "runs": why is None, "why": why or ""}


def _why_not(
    name: str,
    base: Recipe,
    task: Task,
    labels: Tensor,
    student: Built,
    teachers: list[Built],
    tapped: dict[str, Networks],
) -> str | None:
    methods = {name: registry.get(name)}
    try:
        recipe = with_method(base, name)
        teachers = teachers[: len(recipe.teacher)]
        further_views(task, methods, recipe.options)
        key = repr((methods[name].taps(recipe.options[name]), methods[name].online, len(teachers)))
        if key not in tapped:
            tapped[key] = tap_networks(task, recipe.options, methods, student, teachers)
        size = min(recipe.train.batch_size, len(labels))
        make_method(recipe, methods, tapped[key], student.num_classes, labels, size)
    except KdtoolError as error:
        return str(error)
    return None
