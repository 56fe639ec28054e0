"""``kdtool bench --data FOLDER``: what reading samples costs on this machine, without any network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kdtool import __version__
from kdtool.engine.precision import pick_device
from kdtool.errors import InputError
from kdtool.measure.profile import machine
from kdtool.recipe.schema import Recipe
from kdtool.registry import tasks


def bench_reading(recipe: Recipe, *, pairs: int, say: Callable[[str], None]) -> dict[str, Any] | None:
    """Measure what reading the recipe's data costs; None: the task has no such figures of such data.

    Args:
        recipe: its sections ``data`` and ``train`` say what is read, how, by how many workers, and where it goes.
        pairs: rounds, in each of which everything has its turn.
        say: told what is being measured.

    Returns:
        {"kdtool", "machine", "reading"}: see the task's own.

    Raises:
        InputError: there is nothing to read, or a round would be none.
    """
    if pairs < 1:
        raise InputError(f"pairs={pairs}: a bench needs a round at least.")
    found = tasks.get(recipe.task).reading(recipe, pairs, say)
    if found is None:
        return None
    return {"kdtool": __version__, "machine": machine(pick_device(recipe.train.device)), "reading": found}
