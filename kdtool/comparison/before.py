"""What is looked at before a comparison begins: that its runs can be built, have one budget and one first student."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Any

from kdtool import registry
from kdtool.comparison.plan import Cell, Plan
from kdtool.errors import InputError
from kdtool.recipe import load as recipes
from kdtool.runs.setting import Setting, build_setting


def look(plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Build every method with the first student and every student with the first method, and train nothing.

    Returns:
        {"data", "selected", "budget": {"steps": by student, "extra": by method, "online": names of methods}}.

    Raises:
        InputError: something cannot be built, or the runs of a student would not be comparable.
    """
    methods = [(plan.students[0], method) for method in plan.methods]
    first: dict[str, tuple[int, str]] = {}
    extra: dict[str, int] = {}
    run: Setting | None = None
    for student, method in [*methods, *((student, plan.methods[0]) for student in plan.students[1:])]:
        say(f"looking at {student} with {method}")
        run = _built(plan, student, method)
        per_epoch = run.train_batches.steps
        trained = sum(each.epochs for each in run.stages if "student" in each.stage.trains) * per_epoch
        if aside := sum(each.epochs for each in run.stages) * per_epoch - trained:
            extra[method] = aside
        here = (trained, _digest(run))
        if first.setdefault(student, here) != here:
            what, hint = f"{trained} student steps instead of {first[student][0]}", ""
            if trained == first[student][0]:
                what = "another student to begin with"
                hint = (
                    " Where a student without a teacher is another one, name in the recipe what it takes from its "
                    "teacher, such as student.tokenizer."
                )
            raise InputError(
                f"{student} with {method} has {what}: its runs would not be paired with the others'.{hint}"
            )
    assert run is not None
    data, split = run.data, run.recipe.data
    watched = run.data.val is not None and split.watch_test
    return {
        "task": run.recipe.task,
        "unit": run.task.unit,
        "metric": run.objective.metric.to_dict(),
        "data": {
            "name": data.name,
            "train": run.train_size,
            "val": len(data.val) if data.val is not None and not watched else 0,
            "test": len(data.test),
            "watch_test": split.watch_test,
        },
        "selected": run.recipe.train.select if data.val is not None else "last",
        "budget": {
            "steps": {student: steps for student, (steps, _) in first.items()},
            "extra": extra,
            "online": [method for method in plan.methods if _online(method)],
        },
    }


def gpus(plan: Plan) -> list[str]:
    """Return the CUDA devices that workers may take turns on; none where the recipe names one, or another kind."""
    recipe = plan.recipe_of(next(plan.cells()))
    if recipe.train.device not in ("auto", "cuda"):
        return []
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]


def _built(plan: Plan, student: str, method: str) -> Setting:
    try:
        return build_setting(plan.recipe_of(Cell(student, method, plan.seeds[0])))
    except InputError as error:
        raise InputError(f"{student} with {method}: {error}") from error


def _digest(run: Setting) -> str:
    """Return a digest of the student's first weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(run.student.module.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _online(method: str) -> bool:
    return any(registry.get(name).online for name in recipes.parts(method))
