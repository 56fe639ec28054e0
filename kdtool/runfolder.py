"""A run's folder: its name, what lies in it, and how it is claimed."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdtool import recipe as recipes
from kdtool.errors import InputError
from kdtool.home import sole_lock
from kdtool.schema import Recipe

RECIPE, RESULT, LOCK = "recipe.yaml", "result.json", ".lock"


def default_folder(recipe: Recipe, root: Path) -> Path:
    """Return the first free ``root/<teacher>-<student>-<method>-<n>``."""
    names = [_short(teacher.model) for teacher in recipe.teacher] + [_short(recipe.student.model), recipe.method]
    stem, number = "-".join(names)[:120], 1
    while (root / f"{stem}-{number}").exists():
        number += 1
    return root / f"{stem}-{number}"


def _short(model: str) -> str:
    name = model.rsplit("/", 1)[-1].split(":")[-1].removesuffix(".py")
    return "".join(c if c.isalnum() or c in "_." else "_" for c in name)


def choose_folder(recipe: Recipe) -> Path:
    """Return the folder of a new run.

    Raises:
        InputError: ``out`` exists and is not empty.
    """
    if recipe.out is None:
        return default_folder(recipe, Path("runs"))
    folder = Path(recipe.out)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        hint = (
            f"go on with it by --resume {folder}, or" if (folder / RECIPE).is_file() else "it is not a run of kdtool:"
        )
        raise InputError(f"--out {folder} exists already: {hint} choose another --out.")
    return folder


@contextlib.contextmanager
def claimed(folder: Path, recipe: Recipe) -> Iterator[None]:
    """Create a new run's folder and hold it; a run that ends in bad input before training leaves nothing behind."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    fresh = not (folder / RECIPE).exists()
    try:
        with sole_lock(folder / LOCK, f"the run folder {folder}"):
            write_whole(folder / RECIPE, recipes.to_yaml(recipe, header=f"kdtool run --resume {folder}"))
            yield
    except InputError:
        if fresh and not list(folder.glob("**/checkpoints")):
            (folder / RECIPE).unlink(missing_ok=True)
            for path in made:
                with contextlib.suppress(OSError):
                    path.rmdir()
        raise


def write_whole(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old or the new one, never a part."""
    aside = path.with_name(f".{path.name}.tmp")
    with aside.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(path)


def open_for_resume(folder: Path) -> tuple[Recipe, dict[str, Any] | None]:
    """Return a run's recipe, and its result if it is finished.

    Raises:
        InputError: the folder holds no run.
    """
    if not (folder / RECIPE).is_file():
        raise InputError(f"--resume {folder}: there is no run (no {RECIPE}); name a folder that kdtool run wrote.")
    recipe = recipes.load(folder / RECIPE)
    recipe.out = str(folder)
    try:
        result = json.loads((folder / RESULT).read_text())
    except FileNotFoundError:
        result = None
    except ValueError as error:
        raise InputError(f"{folder / RESULT} is not readable ({error}): delete it and resume again.") from error
    return recipe, result
