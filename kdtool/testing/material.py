"""What the checks work on, all of it through the task's own contract: tiny data, networks and batches."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdtool.engine.job import Loaded
from kdtool.recipe import load as recipes
from kdtool.recipe.schema import Recipe
from kdtool.registry import tasks
from kdtool.tasks.task import Built, Reading, Specimens, Task

BATCH = 8
"""Samples in a batch."""

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Material:
    """A task's tiny data, opened, and its tiny networks.

    Attributes:
        recipe: that opens the data.
        data: a ``kdtool.tasks.task.Dataset``.
    """

    task: Task
    recipe: Recipe
    data: Any

    @cached_property
    def specimens(self) -> Specimens:
        return self.task.specimens()

    @property
    def kinds(self) -> list[str]:
        """The kinds of networks, the usual one first."""
        return list(self.specimens.models)

    @cached_property
    def split(self) -> Any:
        """The student's training set."""
        return self.task.transfer_set(self.data, self.recipe)

    @cached_property
    def labels(self) -> Tensor:
        """(rows,) int64 classes of the training set."""
        return torch.from_numpy(self.split.labels)

    @cached_property
    def objective(self) -> Any:
        return self.task.objective(self.data, 0.0)

    def networks(self, student: str, teachers: list[str], seed: int, online: bool) -> tuple[Built, list[Built]]:
        """Return fresh networks of these kinds, from scratch.

        Args:
            student: a kind.
            teachers: kinds; none or more.
            seed: of the student's first weights, and of peers'; frozen teachers have seeds of their own.
            online: the teachers are peers.
        """
        recipe = copy.deepcopy(self.recipe)
        recipe.student.model, recipe.student.weights, recipe.train.seed = self._model(student), "scratch", seed
        recipe.teacher = [type(recipe.teacher[0])() for _ in teachers]
        for number, (section, kind) in enumerate(zip(recipe.teacher, teachers, strict=True)):
            section.model, section.weights, section.train.seed = self._model(kind), "scratch", number
        return self.task.student(recipe, self.data), self.task.teachers(recipe, self.data, online)

    def _model(self, kind: str) -> str:
        return self.specimens.models[kind]

    def batches(self, networks: list[Built], views: Sequence[str] = ()) -> list[Loaded]:
        """Return the first few batches that these networks are trained on, with further views of each sample."""
        reading = Reading(BATCH, 0, CPU, train=True, channels_last=False, views=views)
        found = self.task.batches(self.data, self.split, self.recipe, networks, reading)
        return list(islice((batch for epoch in count() for batch in found.epoch(epoch)), 5))


@lru_cache
def material(name: str) -> Material:
    """Return what a task gives, made once in a process.

    Raises:
        InputError: there is no such task, or it has no specimens.
    """
    task = tasks.get(name)
    folder = tempfile.TemporaryDirectory(prefix="kdtool-check-")
    recipe = recipe_of(task, Path(folder.name), seed=0)
    found = Material(task, recipe, task.open(recipe))
    _KEPT.append(folder)
    return found


_KEPT: list[Any] = []
"""Folders of what was opened; they go with the process."""


def recipe_of(task: Task, folder: Path, seed: int, **more: Any) -> Recipe:
    """Return a recipe on specimens that are written into a folder: the usual network on both sides.

    Args:
        task: whose.
        folder: made where it does not exist.
        seed: of the samples.
        more: further values, each key with ``__`` for a dot.
    """
    specimens = task.specimens()
    folder.mkdir(parents=True, exist_ok=True)
    usual = next(iter(specimens.models.values()))
    given = {"task": task.name, "teacher.model": usual, "student.model": usual, "train.device": "cpu"}
    keys = {key.replace("__", "."): value for key, value in more.items()}
    return recipes.from_dict({**given, **specimens.write(folder, seed), **keys})
