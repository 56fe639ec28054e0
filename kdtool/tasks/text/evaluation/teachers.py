"""A run's own teachers, opened again to compare its student with them."""

from __future__ import annotations

from typing import Any

from kdtool.tasks.common.kept_teachers import PEERS, ready, trained_along
from kdtool.tasks.text.data.dataset import TextData
from kdtool.tasks.text.evaluation.target import Target
from kdtool.tasks.text.networks import build_student, build_teachers


def own_teachers(recipe: Any, data: TextData) -> tuple[list[Target], list[str]]:
    """Return a run's teachers with the weights they taught with, and sentences on those that cannot be had.

    Args:
        recipe: the run's.
        data: the run's own.
    """
    if trained_along(recipe):
        return [], [PEERS]
    found, notes = ready(recipe, data, build_student(recipe, data), build_teachers(recipe, data, online=False))
    return [Target(built.name, "teacher", built, list(data.class_names), file) for built, file in found], notes
