"""A run's page: student, teachers and baseline measured again, and a look at test images one by one."""

from __future__ import annotations

from pathlib import Path

from kdtool.events import Metric
from kdtool.report.sections import RunSections
from kdtool.tasks.common.page import classification
from kdtool.tasks.common.targets import result_of
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
    say(f"{run}: measuring on the test split")
    evaluation = evaluate(run)
    alone = run / "baseline" / "student"
    baseline = evaluate(alone) if alone.is_dir() else None
    say(f"{run}: looking at test images one by one")
    result = result_of(run)
    return classification(
        evaluation,
        baseline,
        look(recipe, str(run)),
        student=result["student"]["name"],
        metric=Metric.of(result),
        unit="images",
        inputs=evaluation["data"]["inputs"],
    )
