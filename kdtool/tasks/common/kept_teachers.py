"""A run's own teachers, opened again to compare its student with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from kdtool import registry
from kdtool.recipe import load as recipes
from kdtool.registry import tasks
from kdtool.runs.networks import with_rates
from kdtool.runs.teachers import kept_in
from kdtool.tasks.common.weights import WEIGHTS
from kdtool.tasks.task import Built

B = TypeVar("B", bound=Built)

PEERS = "its teachers are peers that trained along and are not kept, so there is none to agree with"


def trained_along(recipe: Any) -> bool:
    """Tell whether a run's teachers are peers, of which nothing is kept; ``PEERS`` says so."""
    return any(registry.get(name).online for name in recipes.parts(recipe))


def ready(
    recipe: Any, data: Any, student: Built, teachers: Sequence[B]
) -> tuple[list[tuple[B, Path | None]], list[str]]:
    """Return the teachers of a run with the weights they taught with, and sentences on those that cannot be had.

    Args:
        recipe: the run's.
        data: the run's own.
        student, teachers: as the recipe builds them.

    Returns:
        Each teacher with its file (None: the weights that it is built with), and the sentences.
    """
    task = tasks.get(recipe.task)
    settled = with_rates(recipe, student, list(teachers))
    found, notes = [], []
    for section, teacher in zip(settled.teacher, teachers, strict=True):
        file = None
        if teacher.needs_training:
            file = kept_in(section, teacher, settled, task, data) / WEIGHTS
            if not file.is_file():
                notes.append(f"teacher {teacher.name} is not kept here any more ({file.parent}); --teacher names one")
                continue
            task.load(teacher, file.parent)
        found.append((teacher, file))
    return found, notes
