"""Which task a network that lies somewhere is of."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdtool.errors import InputError
from kdtool.recipe import yaml_file
from kdtool.registry import tasks
from kdtool.registry.entries import PluginError
from kdtool.runs.folder import RECIPE
from kdtool.tasks.task import Task

DEPTH = 4
"""How many folders up a run's recipe is looked for: its student, the baseline's and the exports lie below it."""


def task_of(target: str | Path, named: str | None = None) -> Task:
    """Return the task of a run's folder, or of what lies in one; else the one that knows it, or the default.

    Args:
        target: a run's folder, a folder or file in it, a model's name, ...
        named: a task's name, which settles it.

    Raises:
        InputError: there is no such task.
    """
    if named is not None:
        return tasks.get(named)
    path = Path(str(target).removeprefix("local-dir:")).expanduser()
    if path.exists():
        for place in [path, *path.resolve().parents][:DEPTH]:
            if (place / RECIPE).is_file():
                with contextlib.suppress(InputError):
                    return tasks.get(str(yaml_file.read(place / RECIPE).get("task") or tasks.default()))
        for name in tasks.names():
            with contextlib.suppress(InputError, PluginError):
                if (task := tasks.get(name)).knows(path):
                    return task
    return tasks.get(tasks.default())


def signed(task: Task, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a task measured of a network, with "task" and "metric" (see ``Metric``): whose figures they are."""
    return {"task": task.name, "metric": task.headline.to_dict(), **found}
