"""A run's own teachers, opened again to compare its student with them."""

from __future__ import annotations

from pathlib import Path

from kdtool import registry
from kdtool.recipe import load as recipes
from kdtool.registry import tasks
from kdtool.runs.networks import with_rates
from kdtool.runs.teachers import kept_in
from kdtool.tasks.common.weights import WEIGHTS
from kdtool.tasks.images.data.dataset import DataSet
from kdtool.tasks.images.evaluation.preprocessing import Preprocessing
from kdtool.tasks.images.evaluation.target import Target
from kdtool.tasks.images.models.built import Built
from kdtool.tasks.images.networks import Adapted, build_student, build_teachers
from kdtool.tasks.images.options import Recipe


def own_teachers(recipe: Recipe, data: DataSet, how: Preprocessing) -> tuple[list[Target], list[str]]:
    """Return a run's teachers as the run itself used them, and sentences on those that cannot be had.

    Args:
        recipe: the run's.
        data: the run's own.
        how: the student's preprocessing, which the teachers are given.
    """
    if any(registry.get(name).online for name in recipes.parts(recipe)):
        return [], ["its teachers are peers that trained along and are not kept, so there is none to agree with"]
    task, classes = tasks.get(recipe.task), len(data.class_names)
    built = build_teachers(recipe, classes, how.size, online=False)
    student = build_student(recipe, classes, how.size)
    settled = with_rates(recipe, student, list(built))
    found, notes = [], []
    for section, teacher in zip(settled.teacher, built, strict=True):
        file = None
        if teacher.needs_training:
            file = kept_in(section, teacher, settled, task, data) / WEIGHTS
            if not file.is_file():
                notes.append(f"teacher {teacher.name} is not kept here any more ({file.parent}); --teacher names one")
                continue
            task.load(teacher, file.parent)
        found.append(_as_given(teacher, how, list(data.class_names), file))
    return found, notes


def _as_given(teacher: Built, how: Preprocessing, class_names: list[str], file: Path | None) -> Target:
    """Return a teacher that takes the student's inputs."""
    norm, own = (how.mean, how.std), (tuple(teacher.mean), tuple(teacher.std))
    network = Adapted(teacher.tapped(), teacher.image_size, norm, own)
    return Target(teacher.name, "teacher", network, how, class_names, len(class_names), file, teacher)
