"""What a user's TARGET names, whatever the task: a run, a saved model's folder, or something else by name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdtool.errors import InputError
from kdtool.recipe import load as recipes
from kdtool.recipe.names import is_own_file
from kdtool.runs.folder import RECIPE, RESULT
from kdtool.runs.student import last_recipe, recipe_of, student_of

CONFIG = "config.json"
"""What a saved model says of itself, beside its weights."""


@dataclass
class Found:
    """What a user's TARGET names, before anything is built.

    Attributes:
        name: as it was given.
        kind: "run", "folder" or "model"; a task may have more.
        path: of the run, the folder or the file; None for a model.
        recipe: of the run that it is, or lies in, of the task's own type; None without one.
    """

    name: str
    kind: str
    path: Path | None
    recipe: Any


def find(name: str) -> Found:
    """Return what ``name`` names.

    Raises:
        InputError: a run that has no student yet, a folder without one, a file, or no such folder.
    """
    path = Path(name).expanduser()
    if not name.strip() or "\0" in name:
        raise InputError("TARGET is empty: give a run's folder, a saved model's folder or a model's name.")
    if not path.is_dir():
        if path.is_file() and ".py" not in path.suffix:
            raise InputError(f"{name!r} is a file; give the folder that it lies in, or a model with --weights {name}.")
        # A name of the hub is OWNER/MODEL; what begins as a path that is there is no such name.
        if "/" in name and not is_own_file(name) and (name.count("/") > 1 or path.parent.is_dir()):
            raise InputError(f"there is no folder {name!r}: give a run's folder, its student folder or a model's name.")
        return Found(name, "model", None, None)
    return in_folder(path, name, "its student folder or a model's name")


def in_folder(path: Path, name: str, others: str) -> Found:
    """Return what a folder holds.

    Args:
        path: the folder.
        name: as it was given.
        others: what else might be given, for the message.

    Raises:
        InputError: it is no run and no saved model, or a run that has no student yet.
    """
    if (path / RECIPE).is_file():
        return Found(name, "run", path, recipe_of(path, name))
    if (path / CONFIG).is_file():
        return Found(name, "folder", path, recipe_above(path))
    raise InputError(
        f"the folder {name} is no run (no {RECIPE}) and no saved model (no {CONFIG}): give a run's folder, {others}."
    )


def network_folder(name: str) -> Path | None:
    """Return the folder of the saved network that a model's name names: of a run its student's; None: it names none.

    Raises:
        InputError: it names a run that has no student yet.
    """
    path = Path(name).expanduser()
    if (path / RECIPE).is_file():
        return student_of(path, name)
    return path if (path / CONFIG).is_file() else None


def recipe_above(path: Path) -> Any:
    """Return the recipe of the run that a file or folder lies in, None without one."""
    run = next((p for p in list(path.resolve().parents)[:2] if (p / RECIPE).is_file()), None)
    try:
        return last_recipe(run) if run is not None else None
    except recipes.UnnamedCode:
        return None  # what was named may be opened all the same


def recipe_for(
    found: Found,
    task: str,
    data: str | Path | None,
    overrides: Sequence[str],
    flags: Mapping[str, Any] | None = None,
    but: Mapping[str, str] | None = None,
    own: Sequence[str] = (),
) -> Any:
    """Return the recipe whose section ``data`` says what to measure on.

    Args:
        found: the target.
        task: what it is of.
        data: names other data than the run's own; None: that.
        overrides: texts ``data.key=value`` (``student.model_args.key=value`` for a model by name).
        flags: further values by key; None: as it is.
        but: keys of ``data`` that do not apply, and why.
        own: further keys that a model by name takes.

    Raises:
        InputError: neither names any data, or an override that does not apply.
    """
    model = found.kind == "model"
    for text in overrides:
        key, _ = recipes.split_override(text)
        applies = key.startswith("data.") or (model and (key.startswith("student.model_args.") or key in own))
        if not applies or key in (but or {}):
            more = f" and {', '.join(['student.model_args', *own])}" if model else ""
            apart = "; ".join(f"not {each}: {why}" for each, why in (but or {}).items())
            raise InputError(
                f"{text}: of the recipe's keys only those of data{more} apply here{f' ({apart})' if apart else ''}."
            )
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    if data is None and found.recipe is not None:
        plain = recipes.to_dict(found.recipe)
        return recipes.from_dict({**plain, **given, **dict(map(recipes.split_override, overrides))})
    if data is None:
        raise InputError(f"{found.name} belongs to no run, so name the data to measure it on: --data.")
    flat = {"task": task, "method": "none", "data.name": str(data), "student.model": found.name if model else None}
    return recipes.load(None, overrides, {key: value for key, value in {**flat, **given}.items() if value is not None})


def trained_on(found: Found, data: str | Path | None) -> bool:
    """Tell whether data are those of the run that a target is or lies in; None: they are."""
    if data is None or found.recipe is None:
        return data is None
    own, given = (Path(str(name)).expanduser() for name in (found.recipe.data.name, data))
    return str(own) == str(given) or (own.exists() and own.resolve() == given.resolve())


def refuse_beside(found: Found, given: Mapping[str, bool]) -> None:
    """Refuse what only a model by name takes.

    Args:
        found: the target.
        given: by what it is called, whether it was given.

    Raises:
        InputError: something was, and the target is no model by name.
    """
    wrong = [name for name, is_given in given.items() if is_given]
    if found.kind != "model" and wrong:
        raise InputError(f"{found.name} comes with its own {wrong[0]}; leave {', '.join(wrong)} out.")


def config_of(folder: Path) -> dict[str, Any]:
    """Return a saved model's description, empty where there is none.

    Raises:
        InputError: it cannot be read.
    """
    try:
        found = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / CONFIG} cannot be read: {error}") from error
    return found if isinstance(found, dict) else {}


def is_architecture(folder: Path, *endings: str) -> bool:
    """Return whether a folder holds a network of transformers whose class ends so, such as "ForCausalLM"."""
    found = config_of(folder).get("architectures")
    return isinstance(found, list) and any(str(name).endswith(endings) for name in found)


def result_of(run: Path) -> dict[str, Any]:
    """Return a run's ``result.json``, empty where it is not finished."""
    try:
        found: dict[str, Any] = json.loads((run / RESULT).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found
