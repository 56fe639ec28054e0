"""A run's student, opened again from what ships."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdtool.errors import InputError
from kdtool.runs.folder import RECIPE
from kdtool.runs.student import STUDENT
from kdtool.tasks.common.targets import find
from kdtool.tasks.text.evaluation.target import open_target
from kdtool.tasks.text.models.built import Built


@dataclass(frozen=True)
class Shipped:
    """A student.

    Attributes:
        name: as it was given.
        path: the folder that was named.
        folder: that of the student.
        recipe: of its run.
        built: the network.
        class_names: K names in the order of the logits.
    """

    name: str
    path: Path
    folder: Path
    recipe: Any
    built: Built
    class_names: list[str]


def open_shipped(name: str) -> Shipped:
    """Return the student that a run's folder, or the student folder in one, holds.

    Raises:
        InputError: there is none, or it cannot be opened.
    """
    path = Path(name).expanduser()
    if not path.exists():
        raise InputError(f"there is no folder {name!r}: give a run's folder.")
    found = find(name)
    if found.path is None or found.recipe is None:
        raise InputError(f"{name} is no run (no {RECIPE}) and no student in one: give a run's folder.")
    target = open_target(found, None)
    names = target.class_names or [str(number) for number in range(target.built.num_classes)]
    folder = path / STUDENT if found.kind == "run" else path
    return Shipped(name, path, folder, found.recipe, target.built, names)
