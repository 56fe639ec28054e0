"""A trial of a method's options: trained like a run and measured on the validation split, never on the test split."""

from __future__ import annotations

import shutil
from pathlib import Path

from kdtool.engine.signals import StopRequest
from kdtool.engine.trainer import fit
from kdtool.errors import InputError
from kdtool.events import Reporter
from kdtool.recipe.schema import Recipe
from kdtool.runs.execution import Execution
from kdtool.runs.folder import held
from kdtool.runs.setting import build_setting
from kdtool.system import strict_json
from kdtool.system.disk import write_whole

TRIAL = "trial.json"
"""What a trial of options reached on the validation split, in its folder."""


def trial(recipe: Recipe, folder: Path, reporter: Reporter) -> None:
    """Train by ``recipe`` and write the selected epoch's accuracy; going on from checkpoints where there are any.

    Raises:
        InputError: there is no validation split.
        RunError, Interrupted: as for ``kdtool.run``.
    """
    with held(folder), StopRequest() as stop:
        setting = build_setting(recipe, reporter)
        if setting.data.val is None:
            raise InputError(no_validation(recipe.data.val_fraction))
        execution = Execution(setting, reporter, folder, resume_folder=folder)
        execution.ready_teachers(stop)
        execution.check_teachers()
        fitted = fit(execution.student_job(folder, execution.replay(stop)), reporter, stop)
        best = fitted.best if recipe.train.select == "best" else fitted.last
        value = best["val"][setting.objective.metric.key]
        write_whole(folder / TRIAL, strict_json.dumps({"val": value, "steps": fitted.steps}) + "\n")
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def no_validation(fraction: float) -> str:
    """Return why options cannot be searched."""
    return (
        f"--tune searches on the validation split, and there is none (data.val_fraction={fraction:g}): "
        "set data.val_fraction, such as 0.1, or leave --tune out. The test split may not choose options."
    )
