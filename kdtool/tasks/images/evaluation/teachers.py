"""A run's own teachers, opened again to compare its student with them."""

from __future__ import annotations

from pathlib import Path

from kdtool.tasks.common.kept_teachers import PEERS, ready, trained_along
from kdtool.tasks.images.data.dataset import DataSet
from kdtool.tasks.images.evaluation.preprocessing import Preprocessing
from kdtool.tasks.images.evaluation.target import Target
from kdtool.tasks.images.models.built import Built
from kdtool.tasks.images.networks import as_given, build_student, build_teachers
from kdtool.tasks.images.options import Recipe


def own_teachers(recipe: Recipe, data: DataSet, how: Preprocessing) -> tuple[list[Target], list[str]]:
    """Return a run's teachers as the run itself used them, and sentences on those that cannot be had.

    Args:
        recipe: the run's.
        data: the run's own.
        how: the student's preprocessing, which the teachers are given.
    """
    if trained_along(recipe):
        return [], [PEERS]
    classes = data.classes
    built = build_teachers(recipe, classes, how.size, online=False)
    found, notes = ready(recipe, data, build_student(recipe, classes, how.size), built)
    return [_as_given(teacher, how, list(data.class_names), file) for teacher, file in found], notes


def _as_given(teacher: Built, how: Preprocessing, class_names: list[str], file: Path | None) -> Target:
    """Return a teacher that takes the student's inputs."""
    network = as_given(teacher.tapped(), teacher, (how.mean, how.std))
    return Target(teacher.name, "teacher", network, how, class_names, teacher.num_classes, file, teacher)
