"""A finished run made longer: what says that it is over is taken away, and it goes on from the checkpoint before.

That one is of the last epoch but one and has the optimizer, so an epoch is trained twice; runs of older versions have
it too. What comes out is the run that had so many epochs from the start, since only what keeps every step so far as it
was may change: the length of the last stage. Rates, stages and what a method ramps stay made for the epochs that they
were made for, which ``schedule.epochs`` says from then on.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from kdtool.engine.checkpoint import checkpoints
from kdtool.errors import InputError
from kdtool.recipe.schema import Recipe
from kdtool.runs import resume as resuming
from kdtool.runs.setting import Setting

KEYS = ("train.epochs", "schedule.epochs")
"""What may change."""

_ENDS = ("cosine", "linear")
"""Schedules that come down to ``schedule.min_lr`` by their end."""


def extended(folder: Path, recipe: Recipe, chosen: bool) -> Recipe:
    """Return the recipe of a finished run as it is to go on.

    Args:
        folder: the run's.
        recipe: what the run had, with the changes that were asked for.
        chosen: ``schedule.epochs`` is among them.

    Raises:
        InputError: something else is changed, the run cannot be longer, or its rate has come down to its end and
            nobody said that it is to go on with that.
    """
    before = resuming.begun(folder)["recipe"]
    old, new, where = before["train.epochs"], recipe.train.epochs, f"--resume {folder}"
    others = [each for each in resuming.changes(folder, recipe) if each.split(":")[0] not in KEYS]
    if others:
        raise InputError(f"{where}: a finished run can only become longer, and this is more: {'; '.join(others)}.")
    if recipe.train.steps is not None or recipe.assistants or recipe.generations > 1:
        raise InputError(f"{where}: a stream's run, or a chain of runs, cannot become longer; start a new one.")
    if new <= old:
        raise InputError(f"{where}: that run is finished and has {_epochs(old)}; say more, or start a new run.")
    made_for = before.get("schedule.epochs") or old
    if recipe.schedule.epochs not in (None, made_for):
        raise InputError(
            f"{where}: schedule.epochs={recipe.schedule.epochs} would have given the epochs so far other rates: theirs "
            f"were made for {made_for}. Leave it out, or start a new run."
        )
    recipe.schedule.epochs = made_for
    if recipe.schedule.name in _ENDS and made_for <= old and not chosen:
        raise InputError(
            f"{where}: its {recipe.schedule.name} schedule was made for {_epochs(made_for)} and has come down to "
            f"{recipe.schedule.min_lr:g}, at which more epochs change next to nothing; one for {new} would have had "
            f"other rates from the start. Start a new run for that (--student-weights {folder}/student/model.safetensors "
            f"begins where this one ended), or go on at the last rate by schedule.epochs={made_for}."
        )
    return recipe


def notes(folder: Path, recipe: Recipe) -> Iterator[str]:
    """Yield what there is to say of a run that goes on."""
    old = resuming.begun(folder)["recipe"]["train.epochs"]
    yield (
        f"a finished run goes on, from {_epochs(old)} to {recipe.train.epochs}; its {recipe.schedule.name} schedule "
        f"stays the one made for {_epochs(recipe.schedule.epochs)}"
    )
    if (folder / "export").is_dir():
        yield f"{folder / 'export'} holds the student as it was: export it again afterwards"


def reopen(folder: Path, setting: Setting) -> None:
    """Take a run's end back: the checkpoints that say that it is over, and last its result."""
    for place, stages in ((folder, len(setting.stages)), (folder / "baseline", 1)):
        for path in checkpoints(place / "checkpoints"):
            if int(path.name.split("-")[1]) >= stages:
                shutil.rmtree(path)
    (folder / "result.json").unlink()


def _epochs(number: int | None) -> str:
    """Return "1 epoch", "2 epochs"."""
    return f"{number} epoch{'s' * (number != 1)}"
