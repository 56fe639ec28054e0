"""``train.time_limit``: a run cut to the epochs that fit, decided once, before anything of it is written."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdtool.errors import InputError
from kdtool.recipe import durations
from kdtool.recipe.rates import Schedule
from kdtool.recipe.schema import Recipe
from kdtool.runs.estimate import Costs, asked, measured
from kdtool.runs.setting import Setting
from kdtool.system import strict_json
from kdtool.system.disk import write_whole

FILE = "time_limit.json"
"""In the folder of a run that had a limit: what was asked for, what it was cut to, and what that was to take."""

SHARE = 0.9
"""Of the limit that the trainings are planned to fill; the rest is for what is not measured: optimizer steps,
checkpoints, the test split."""


@dataclass(frozen=True)
class Cut:
    """What became of a run with a limit.

    Attributes:
        recipe: without a limit, and with the epochs that fit.
        limit: as it was given.
        epochs: by phase those asked for and those that fit, where they differ.
        seconds: what the run is to take, by phase.
    """

    recipe: Recipe
    limit: str
    epochs: dict[str, tuple[int, int]]
    seconds: dict[str, float]

    def sentence(self) -> str:
        """Return it in words."""
        about = f"about {sum(self.seconds.values()):.0f} s of trainings"
        if not self.epochs:
            return f"train.time_limit={self.limit}: {about}, nothing is cut"
        parts = ", ".join(f"{name} {before} -> {now}" for name, (before, now) in self.epochs.items())
        return f"train.time_limit={self.limit}: {about}, for which epochs are cut: {parts}"

    def write(self, folder: Path) -> None:
        """Note it in the run's folder, whose recipe has the epochs that fit."""
        found: dict[str, Any] = {"limit": self.limit, "epochs": self.epochs, "seconds": self.seconds}
        write_whole(folder / FILE, strict_json.dumps(found, indent=2) + "\n")


def cut(setting: Setting, limit: str, reading: float | None) -> Cut:
    """Return a run's recipe with as many epochs as fit, of student, baseline and teachers in equal shares.

    Args:
        setting: with all epochs; its networks are to be thrown away.
        limit: ``train.time_limit``.
        reading: as for ``estimate``.

    Raises:
        InputError: not even an epoch of each fits.
    """
    return fitting(setting, measured(setting, reading), limit)


def fitting(setting: Setting, costs: Costs, limit: str) -> Cut:
    """Return ``cut`` for what epochs cost."""
    room = SHARE * durations.seconds(limit, "train.time_limit")
    epochs, teachers = asked(setting)
    least: float | None = None
    for count in range(epochs, 0, -1):
        # What needs no training, or is kept from before, has another key with other epochs: it stays as it is.
        own = {number: _share(whole, count, epochs) if number in costs.teachers else whole
               for number, whole in teachers.items()}  # fmt: skip
        try:
            seconds = costs.of(setting, count, own)
        except InputError:  # fewer than the method's stages need
            break
        least = sum(seconds.values())
        if least <= room:
            recipe, found = _with_epochs(setting.recipe, count, own), {"student": (epochs, count)}
            found |= {"baseline": (epochs, count)} if costs.baseline is not None else {}
            found |= {f"teacher {setting.teachers[each].name}": (teachers[each], own[each]) for each in own}
            return Cut(recipe, limit, {name: each for name, each in found.items() if each[0] != each[1]}, seconds)
    raise InputError(
        f"train.time_limit={limit} is too short: the fewest epochs that the run can have take about {least or 0:.0f} s "
        f"of trainings, and the limit leaves {room:.0f} s for them. Raise it, or take smaller networks or fewer samples."
    )


def _share(whole: int, count: int, epochs: int) -> int:
    return max(1, whole * count // epochs)


def _with_epochs(recipe: Recipe, epochs: int, teachers: dict[int, int]) -> Recipe:
    """Return a recipe with other epochs and schedules that fit them."""
    found = copy.deepcopy(recipe)
    found.train.time_limit = None
    if epochs != recipe.train.epochs:
        _fit(found.schedule, epochs / recipe.train.epochs)
        found.train.epochs = epochs
    for number, count in teachers.items():
        train = found.teacher[number].train
        if count != train.length:
            _fit(train.schedule, count / train.length)
            train.epochs = count
    return found


def _fit(schedule: Schedule, share: float) -> None:
    """Shrink what a schedule counts in epochs, each drop before the end; a warm-up is no shorter for that."""
    schedule.milestones = [max(1, int(each * share)) for each in schedule.milestones]
    schedule.step_epochs = max(0.01, schedule.step_epochs * share)
    if schedule.epochs is not None:
        schedule.epochs = max(1, round(schedule.epochs * share))
