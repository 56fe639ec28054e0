"""A run's student, opened again from what ships."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdtool.errors import InputError
from kdtool.runs.folder import RECIPE
from kdtool.runs.student import STUDENT, WEIGHTS, recipe_of
from kdtool.tasks.text.models import plain
from kdtool.tasks.text.models.build import Request, build
from kdtool.tasks.text.models.built import Built
from kdtool.tasks.text.models.save import CONFIG
from kdtool.tasks.text.models.tokens import of_folder


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
    run = next((each for each in (path, path.resolve().parent) if (each / RECIPE).is_file()), None)
    if run is None or not path.is_dir():
        raise InputError(f"{name} is no run (no {RECIPE}) and no student in one: give a run's folder.")
    recipe: Any = recipe_of(run, name)
    folder = run / STUDENT if run == path else path
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        names = config.get("label_names") or [config["id2label"][str(i)] for i in range(len(config["id2label"]))]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{folder / CONFIG} cannot be read as a student's: {error}.") from error
    tokens = of_folder(str(folder), recipe.data.max_length)
    if config.get("network") in plain.NETWORKS:
        model, weights, args = config["network"], str(folder / WEIGHTS), dict(config["model_args"])
    else:
        model, weights, args = str(folder), "auto", {}
    built = build(Request(model, weights, len(names), tokens, args, 0, "student"))
    return Shipped(name, path, folder, recipe, built, [str(each) for each in names])
