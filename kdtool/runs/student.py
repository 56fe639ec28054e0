"""The recipe that made a run's student, for the commands that look at it."""

from __future__ import annotations

from pathlib import Path

from kdtool.errors import InputError
from kdtool.recipe import load as recipes
from kdtool.recipe.schema import Recipe
from kdtool.runs.chain import links
from kdtool.runs.folder import RECIPE

STUDENT, WEIGHTS = "student", "model.safetensors"
ROBUSTNESS = "robustness.json"
"""What ``kdtool eval --corrupt`` leaves in a run's folder."""


def last_recipe(run: Path) -> Recipe:
    """Return the recipe of a run's last link, the one that makes its student.

    Raises:
        UnnamedCode: it asks for a user's own code.
    """
    return links(recipes.load(run / RECIPE), run)[-1]


def student_of(run: Path, name: str) -> Path:
    """Return the folder of a run's student.

    Args:
        run: its folder.
        name: what messages call it.

    Raises:
        InputError: it has no student yet.
    """
    student = run / STUDENT
    if not (student / WEIGHTS).is_file():
        raise InputError(f"the run {name} has no student yet: kdtool run --resume {name} finishes it.")
    return student


def recipe_of(run: Path, name: str | None = None) -> Recipe:
    """Return the recipe that made a run's student, for a command that opens it.

    Args:
        run: its folder.
        name: what messages call it; default: the folder.

    Raises:
        InputError: the run has no student yet, or its recipe asks for a user's own code.
    """
    name = name or str(run)
    student = student_of(run, name)
    try:
        return last_recipe(run)
    except recipes.UnnamedCode as error:
        raise InputError(
            f"{name}: its recipe names a file with code ({str(error).split(' ')[0]}), which is not run because a "
            f"folder asks for it. Name what is to be opened: {student}, or, where the student's architecture "
            f"is your own, FILE.py:FUNCTION --weights {student / WEIGHTS}; and --data."
        ) from error
