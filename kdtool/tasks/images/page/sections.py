"""A run's page: student, teachers and baseline measured again, and a look at test images one by one."""

from __future__ import annotations

from pathlib import Path

from kdtool.report.sections import RunSections
from kdtool.tasks.common.page import page_of_run
from kdtool.tasks.common.plain_page import plain_page_of_run
from kdtool.tasks.images.evaluation.evaluate import evaluate
from kdtool.tasks.images.options import Recipe
from kdtool.tasks.images.page.samples import look
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
        return plain_page_of_run(run, say, evaluate, unit="images")  # no one class an image to look at
    return page_of_run(run, say, evaluate, lambda: look(recipe, str(run)), unit="images")
