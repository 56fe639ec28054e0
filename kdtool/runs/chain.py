"""Runs in a row: assistants between teacher and student, and generations of the student.

Assistants: Mirzadeh et al., "Improved Knowledge Distillation via Teacher Assistant", AAAI 2020. Generations: Furlanello
et al., "Born-Again Neural Networks", ICML 2018. Every link but the last is a run of its own in ``<run>/chain``; a
finished one is never trained again.
"""

from __future__ import annotations

import copy
from pathlib import Path

from kdtool.recipe import load as recipes
from kdtool import registry
from kdtool.errors import InputError
from kdtool.randomness import key_of
from kdtool.recipe.schema import Recipe, Teacher
from kdtool.system.names import file_name


def links(recipe: Recipe, folder: Path) -> list[Recipe]:
    """Return the recipes to run in order, the last in ``folder`` itself, the others each in ``out`` below it.

    A recipe without assistants and generations is its own only link.

    Args:
        recipe: checked.
        folder: the run's folder.

    Raises:
        InputError: the method has no teacher that could be replaced by an assistant or an earlier generation.
    """
    chain = list(recipe.assistants)
    if not chain and recipe.generations == 1:
        return [recipe]
    _check(recipe)
    students = [type(recipe.student)(model=model) for model in chain]
    students += [copy.deepcopy(recipe.student) for _ in range(recipe.generations)]
    found: list[Recipe] = []
    for number, student in enumerate(students, 1):
        link = copy.deepcopy(recipe)
        link.assistants, link.generations, link.student = [], 1, student
        if found:
            link.teacher = [_as_teacher(found[-1], recipe.teacher[0])]
        if number < len(students):
            link.baseline = False
            link.out = str(folder / "chain" / f"{number}-{file_name(student.model)}")
            # Another first draw for every link; the last keeps the run's own seed, and so its baseline's.
            link.train.seed = key_of("link", recipe.train.seed, number) & 0x7FFFFFFF
        else:
            link.out = str(folder)
        found.append(link)
    return found


def _as_teacher(link: Recipe, first: Teacher) -> Teacher:
    weights = Path(link.out or "") / "student" / "model.safetensors"
    return type(first)(
        model=link.student.model, weights=str(weights), model_args=dict(link.student.model_args), check=first.check
    )


def _check(recipe: Recipe) -> None:
    what = "assistants" if recipe.assistants else f"generations={recipe.generations}"
    methods = [registry.get(name) for name in recipes.parts(recipe)]
    if not methods or any(method.online or method.teachers[0] < 1 for method in methods):
        raise InputError(f"{what}: method {recipe.method!r} has no trained teacher to put a chain behind.")
