"""A run's folder: its name, what lies in it, and how it is claimed."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdtool import environment
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
    """Return the folder of a new run; a default one may be taken by another process until it is claimed.

    Raises:
        InputError: ``out`` exists and is not empty.
    """
    if recipe.out is None:
        return default_folder(recipe, Path("runs"))
    folder = Path(recipe.out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise _taken(folder)
    return folder


def _taken(folder: Path) -> InputError:
    is_run = folder.is_dir() and (folder / RECIPE).is_file()
    hint = f"go on with it by --resume {folder}, or" if is_run else "it is not a run of kdtool:"
    return InputError(f"--out {folder} exists already: {hint} choose another --out.")


def resume_command(folder: Path) -> str:
    """Return the command that goes on with a run, ready for a shell."""
    return f"kdtool run --resume {shlex.quote(str(folder))}"


@contextlib.contextmanager
def claimed(recipe: Recipe) -> Iterator[Path]:
    """Make and hold a new run's folder; a run that ends in bad input before training leaves nothing behind.

    Raises:
        InputError: the folder is not empty, or another process holds it.
    """
    folder = choose_folder(recipe)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder = _make(folder, recipe)
        with held(folder):
            # Looked at again: another run may have come and gone since it was chosen.
            if any(path.name != LOCK for path in folder.iterdir()):
                raise _taken(folder)
            write_whole(folder / RECIPE, recipes.to_yaml(recipe, header=resume_command(folder)))
            write_whole(folder / environment.FILE, json.dumps(environment.current(), indent=2) + "\n")
            try:
                yield folder
            except InputError:
                _empty(folder)
                raise
    except InputError:
        for path in dict.fromkeys((folder, *made)):
            if path in made or recipe.out is None:
                with contextlib.suppress(OSError):
                    path.rmdir()
        raise


def _make(folder: Path, recipe: Recipe) -> Path:
    """Make a new run's folder; of runs that chose the same default one at once, each gets its own."""
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=recipe.out is not None)
            return folder
        except FileExistsError:
            if recipe.out is not None:
                raise _taken(folder) from None
            folder = choose_folder(recipe)
        except OSError as error:
            raise InputError(f"cannot make the folder {folder}: {error.strerror}. Choose another --out.") from error


def _empty(folder: Path) -> None:
    """Remove what a run wrote, unless there is training in it."""
    if any(folder.glob("**/checkpoints")):
        return
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != LOCK:
            path.unlink()


def held(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Hold a run's folder, so that no two processes write to it."""
    return sole_lock(folder / LOCK, f"the run folder {folder}")


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
