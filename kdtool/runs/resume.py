"""Going on with a run: what it was when it began, and what of that was changed since."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdtool.recipe import load as recipes
from kdtool.system.disk import write_whole
from kdtool.errors import InputError
from kdtool.recipe.decides import keys_deciding
from kdtool.recipe.options import STUDENT
from kdtool.recipe.schema import Recipe

FILE = "begun.json"
"""Holds the recipe that a run began with, and digests of the architecture files that it runs."""


def deciding(recipe: Recipe) -> dict[str, Any]:
    """Return by dotted key what decides a run's result, as the keys' declarations say."""
    found = keys_deciding(recipe, STUDENT)
    for name, options in recipe.options.items():
        found |= {f"{name}.{key}": value for key, value in keys_deciding(options, STUDENT).items()}
    return found


def training_key(phase: str, recipe: Recipe, weights: Sequence[str], images: Sequence[str | None]) -> str:
    """Return digests of what decides a training: weights by what they are, not by where they lie.

    Args:
        phase: which of a run's trainings.
        recipe: the run's.
        weights: digests of those that the networks start from.
        images: digests of the data.
    """
    plain = copy.deepcopy(recipe)
    plain.student.weights = ""
    for section in plain.teacher:
        section.weights = ""
    decides = {"recipe": [phase, deciding(plain)], "weights": weights, "images": images}
    digests = {name: json.dumps(value, sort_keys=True, default=str).encode() for name, value in decides.items()}
    return " ".join(f"{name}={hashlib.sha256(text).hexdigest()}" for name, text in digests.items())


def record(folder: Path, recipe: Recipe, accepted: bool = False) -> None:
    """Note what a run begins with, or goes on with after an ``accepted`` change."""
    code = {model: _digest(model) for _, model in recipes.own_code(recipe)}
    begun = {"recipe": deciding(recipe), "code": code, "accepted": accepted}
    write_whole(folder / FILE, json.dumps(begun, indent=2) + "\n")


def accepted(folder: Path) -> bool:
    """Return whether a change of the run was accepted before: its checkpoints may be of what it was then."""
    try:
        return bool(json.loads((folder / FILE).read_text())["accepted"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def begun(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what was noted when a run began: its "recipe" by dotted key, and the digests of "code".

    Raises:
        InputError: it is not there, or cannot be read.
    """
    try:
        found = json.loads((folder / FILE).read_text())
        return {name: dict(found[name]) for name in ("recipe", "code")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / FILE} cannot be read ({error}): the run cannot be gone on with.") from error


def changes(folder: Path, recipe: Recipe) -> list[str]:
    """Return, as "train.epochs: 5 -> 7", what differs from what the run in ``folder`` began with."""
    if not (folder / FILE).exists():
        return []  # stopped before it was noted, and before anything was trained
    noted = begun(folder)
    before, code = noted["recipe"], noted["code"]
    now = json.loads(json.dumps(deciding(recipe)))  # as it will have come back from a file
    keys = [key for key in dict.fromkeys([*before, *now]) if before.get(key) != now.get(key)]
    digests = {model: _digest(model) for _, model in recipes.own_code(recipe)}
    # The same file by another path is no change.
    known = {(digest, model.rpartition(":")[2]) for model, digest in code.items()}
    same = {model for model, digest in digests.items() if (digest, model.rpartition(":")[2]) in known}
    keys = [key for key in keys if str(now.get(key)) not in same]
    found = [f"{key}: {_shown(before.get(key))} -> {_shown(now.get(key))}" for key in keys]
    edited = [model for model in digests if model in code and model not in same]
    return found + [f"the file of {model} was edited" for model in edited]


def refuse_links_out(folder: Path) -> None:
    """Refuse a run's folder in which a link leads elsewhere: what is written there would land outside.

    Raises:
        InputError: naming the link.
    """
    root = os.path.realpath(folder)
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = os.path.join(place, name)
            if os.path.islink(path) and os.path.commonpath([os.path.realpath(path), root]) != root:
                raise InputError(f"--resume {folder}: {path} is a link that leads out of the run's folder; remove it.")


def _digest(model: str) -> str:
    head, colon, function = model.rpartition(":")
    path = Path(head if colon and not function.endswith(".py") else model).expanduser()
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return "missing"


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
