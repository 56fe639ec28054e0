"""A run's page: student, teachers and baseline measured again, and a look at test images one by one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from kdtool.report.sections import RunSections
from kdtool.tasks.common.page import page_of_run
from kdtool.tasks.common.plain_page import plain_page_of_run
from kdtool.tasks.images.evaluation.evaluate import evaluate
from kdtool.tasks.images.evaluation.predictions import Examined
from kdtool.tasks.images.options import Recipe
from kdtool.tasks.images.page.samples import look
from kdtool.tasks.images.page.uncertain import least_certain
from kdtool.tasks.task import Say


def sections(run: Path, recipe: Recipe, say: Say) -> RunSections:
    """Return what a run's page shows of its images.

    Args:
        run: its folder.
        recipe: of its last link.
        say: takes sentences for the user.

    Raises:
        InputError: the run has no student yet, or its data are not there.
    """
    if not recipe.data.labels or recipe.data.targets == "multi":
        why = "An image has several classes" if recipe.data.labels else "The student gives no classes"
        found = plain_page_of_run(run, say, evaluate, unit="images")
        return replace(found, notes=[*found.notes, f"{why}: test images are not shown one by one."])
    sheet: list[dict[str, Any]] = []

    def keep(examined: Examined, logits: Tensor, labels: Tensor, names: list[str]) -> None:
        sheet.extend(least_certain(examined, logits, labels, names))

    def measured(target: Path) -> dict[str, Any]:
        return evaluate(target, keep=keep if target == run else None)

    def looked() -> dict[str, Any]:
        return {**look(recipe, str(run)), "least_certain": sheet}

    return page_of_run(run, say, measured, looked, unit="images")
