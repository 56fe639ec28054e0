"""A search for a method's own options, by Optuna: as many trials for each method, judged on the validation split."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdtool.comparison.plan import Cell, Plan, cell_folder
from kdtool.comparison.space import space
from kdtool.comparison.trial import TRIAL, no_validation
from kdtool.comparison.work import Job
from kdtool.errors import InputError
from kdtool.events import Metric
from kdtool.recipe import load as recipes
from kdtool.runs.folder import tidy
from kdtool.system.disk import write_whole

FAILED = "failed.txt"
"""Why a trial reached nothing, in its folder."""

_STARTUP = 5
"""Trials drawn at random before the search learns from them."""


def check(plan: Plan) -> None:
    """Refuse a search that cannot be made.

    Raises:
        InputError: Optuna is missing, there is no validation split, or a range fits no option.
    """
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise InputError("--tune needs Optuna: pip install 'kdtool[tune]'.") from error
    used = {name for method in plan.methods for name in recipes.parts(method)}
    for key in plan.ranges:
        if key.split(".")[0] not in used:
            raise InputError(f"--range {key}: no compared method is called {key.split('.')[0]!r}.")
    for method in plan.methods:
        cell = Cell(plan.students[0], method, plan.seeds[0])
        recipe = plan.recipe_of(cell)
        if recipe.data.val_fraction == 0 or recipe.data.watch_test:
            raise InputError(no_validation(recipe.data.val_fraction))
        for each in space(recipe, plan.ranges):
            for value in each.choices or (each.low, each.high):
                plan.recipe_of(cell, options={each.key: int(value) if each.whole else value})


@dataclass
class Search:
    """The trials of one method with one student.

    A trial's options follow from the trials before it alone, so that a search that was stopped goes on as it would
    have. The first trial has the recipe's own options. Trials use a seed that is not compared.
    """

    plan: Plan
    folder: Path
    student: str
    method: str
    metric: Metric

    def __post_init__(self) -> None:
        self.cell = Cell(self.student, self.method, max(self.plan.seeds) + 1)
        self.ranges = space(self.plan.recipe_of(self.cell), self.plan.ranges)
        self.place = cell_folder(self.folder, self.cell).parent / "tune"

    def jobs(self) -> Iterator[Job]:
        """Yield the trials one by one; each must have ended when the next is asked for."""
        for number in range(self.plan.tune if self.ranges else 0):
            folder = self.place / f"trial-{number}"
            written = folder / "options.json"
            if not written.is_file():
                folder.mkdir(parents=True, exist_ok=True)
                write_whole(written, json.dumps(self._suggested(number)) + "\n")
            if (folder / TRIAL).is_file() or (folder / FAILED).is_file():
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # of one that was killed at its very end
                tidy(folder)
                continue
            recipe = self.plan.recipe_of(self.cell, folder, json.loads(written.read_text()))
            name = f"{self.student} {self.method} trial {number}"
            yield Job(name, str(folder), recipes.to_dict(recipe), self.plan.threads, trial=True)

    def trials(self) -> list[dict[str, Any]]:
        """Return the trials that have ended: {"options", "val"}, in order; one that failed has None."""
        found = []
        for number in range(self.plan.tune):
            folder = self.place / f"trial-{number}"
            if (folder / TRIAL).is_file():
                value = json.loads((folder / TRIAL).read_text())["val"]
            elif (folder / FAILED).is_file():
                value = None
            else:
                break
            found.append({"options": json.loads((folder / "options.json").read_text()), "val": value})
        return found

    def found(self) -> dict[str, Any]:
        """Return what was searched, and the trial that did best on the validation split, of equals the first."""
        trials = self.trials()
        ended = [each for each in trials if each["val"] is not None]
        choose = max if self.metric.larger_is_better else min
        best = choose(ended, key=lambda each: each["val"]) if ended else {"options": {}, "val": None}
        return {
            "student": self.student,
            "method": self.method,
            "searched": [each.text() for each in self.ranges],
            "asked": self.plan.tune,
            "trials": len(trials),
            "default_val": trials[0]["val"] if trials else None,
            **best,
        }

    def _suggested(self, number: int) -> dict[str, Any]:
        if number == 0:
            return {each.key: each.default for each in self.ranges if each.default is not None}
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        distributions = {each.key: each.distribution() for each in self.ranges}
        sampler = optuna.samplers.TPESampler(n_startup_trials=_STARTUP, seed=number)
        study = optuna.create_study(
            direction="maximize" if self.metric.larger_is_better else "minimize", sampler=sampler
        )
        for each in self.trials():
            inside = all(one.holds(each["options"].get(one.key)) for one in self.ranges)
            if each["val"] is not None and inside:
                study.add_trial(
                    optuna.trial.create_trial(params=each["options"], distributions=distributions, value=each["val"])
                )
        return dict(study.ask(distributions).params)
