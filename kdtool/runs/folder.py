"""A run's folder: its name, what lies in it, and how it is claimed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdtool.runs import environment, extend, resume as resuming
from kdtool.recipe import load as recipes
from kdtool.system.disk import aside, sweep, write_whole
from kdtool.errors import InputError
from kdtool.system.locks import sole_lock
from kdtool.system.names import file_name
from kdtool.recipe.schema import Recipe

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
    return file_name(name, allowed="_.", longest=None)


def choose_folder(recipe: Recipe) -> Path:
    """Return the folder of a new run; a default one may be taken by another process until it is claimed.

    Raises:
        InputError: ``out`` exists and is not empty.
    """
    if recipe.out is None:
        return default_folder(recipe, Path("runs"))
    folder = Path(recipe.out)
    if folder.exists() and (not folder.is_dir() or in_use(folder)):
        raise _taken(folder)
    return folder


def in_use(folder: Path, first: str = RECIPE) -> bool:
    """Tell whether more is in a folder than a command leaves that is killed while it writes its ``first`` file."""
    return any(path not in (folder / LOCK, aside(folder / first)) for path in folder.iterdir())


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
            if in_use(folder):
                raise _taken(folder)
            write_recipe(folder, recipe)
            environment.record(folder)
            resuming.record(folder, recipe)
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


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run's folder, so that no two processes write to it; what a killed one left aside is removed."""
    with sole_lock(folder / LOCK, f"the run folder {folder}"):
        sweep(folder)
        yield


def tidy(folder: Path) -> None:
    """Remove what a run left that was killed between its result and its end: its lock, mostly."""
    if (folder / LOCK).exists():
        with contextlib.suppress(InputError, OSError), held(folder):
            pass


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """Write a run's recipe into its folder; where that lies is no part of it, so that another run can be made of it."""
    header = resume_command(folder)
    write_whole(folder / RECIPE, recipes.to_yaml(dataclasses.replace(recipe, out=None), header))


@dataclass(frozen=True)
class Resumed:
    """A run to go on with.

    Attributes:
        recipe: as it is now.
        result: of a finished run, else None.
        changes: what differs from the recipe that it began with.
        longer: it is finished, and goes on to more epochs.
    """

    recipe: Recipe
    result: dict[str, Any] | None
    changes: list[str]
    longer: bool = False


def open_for_resume(
    folder: Path, overrides: Sequence[str] = (), flags: Mapping[str, Any] | None = None, accept_changes: bool = False
) -> Resumed:
    """Return what is known of a run.

    Args:
        folder: the run's.
        overrides, flags: changes to its recipe, as for ``kdtool.recipe.load``; models whose code is a user's own file
            have to be named again.
        accept_changes: go on though the recipe, or such a file, was changed since the run began.

    Raises:
        InputError: the folder holds no run, a link in it leads out of it, or something was changed.
    """
    if not (folder / RECIPE).is_file():
        raise InputError(f"--resume {folder}: there is no run (no {RECIPE}); name a folder that kdtool run wrote.")
    resuming.refuse_links_out(folder)
    try:
        result = json.loads((folder / RESULT).read_bytes())
    except FileNotFoundError:
        result = None
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / RESULT} is not readable ({error}): delete it and resume again.") from error
    given = dict(flags or {})
    keys = {*given, *(recipes.split_override(each)[0] for each in overrides)}
    longer = result is not None and "train.epochs" in keys
    if result is not None and not longer:
        if keys:
            raise InputError(
                f"--resume {folder}: that run is finished, and all that can change is that it becomes longer "
                "(--epochs); start a new one."
            )
        tidy(folder)
        return Resumed(Recipe(), result, [])
    recipe = recipes.load(folder / RECIPE, overrides, {**given, "out": str(folder)})
    recipe.out = str(folder)
    if recipe.train.time_limit is not None:
        raise InputError(
            f"--resume {folder}: what fits a time limit is settled when a run starts, and train.time_limit cannot "
            "come later. Leave it out."
        )
    if longer:
        return Resumed(extend.extended(folder, recipe, "schedule.epochs" in keys), None, [], longer)
    changes = resuming.changes(folder, recipe)
    if changes and not accept_changes:
        raise InputError(
            f"--resume {folder}: not what the run began with: {'; '.join(changes)}. Undo it, start a new run, or go on "
            "all the same with --accept-changes."
        )
    return Resumed(recipe, None, changes)
