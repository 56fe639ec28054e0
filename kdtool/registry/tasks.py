"""Which tasks are installed: entry points of the group ``kdtool.tasks``. Nothing else loads a task."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from kdtool import API, __version__
from kdtool.errors import InputError, did_you_mean
from kdtool.recipe import schema
from kdtool.recipe.sections import check_type
from kdtool.registry.entries import Entry, PluginError, announced, default_of, wrong_version
from kdtool.tasks.task import Task

GROUP = "kdtool.tasks"


@lru_cache(maxsize=1)
def entries() -> tuple[Entry[Task], ...]:
    """Return every announced task, usable or not, sorted by name. ``entries.cache_clear()`` looks again."""
    return announced(GROUP, "task", check, ())


def names() -> list[str]:
    """Return the names of all announced tasks, without loading any."""
    return sorted({entry.name for entry in entries()})


def get(name: str) -> Task:
    """Return a task.

    Raises:
        InputError: no such task, two of that name, or one for another contract version.
        PluginError: its plugin is broken.
    """
    for entry in entries():
        if entry.name == name:
            return entry.load()
    raise InputError(
        f"there is no task {name!r}. {did_you_mean(name, names())} `kdtool list-tasks` shows all; others come as pip "
        "packages."
    )


def default() -> str:
    """Return the task of a recipe that names none: the one that kdtool's own metadata point at.

    Raises:
        InputError: the metadata point at none.
    """
    found = default_of("task", entries())
    if found is None:
        raise InputError("name a task with --task NAME (in a recipe, task: NAME); `kdtool list-tasks` shows all.")
    return found


def check(found: Any, name: str, origin: str) -> Task:
    """Return an instance of ``found`` when it is a class that fits the contract.

    Raises:
        InputError: it was written for another contract version.
        PluginError: it is no ``Task``, or its sections cannot be read.
    """
    label = f"task {name!r} of {origin}"
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise PluginError(f"{label} is {found!r}, not a subclass of kdtool.Task.")
    if getattr(found, "api", None) != API:
        raise wrong_version(label, getattr(found, "api", None), API, __version__, origin.split(" ")[0])
    for section in ("Data", "Teacher", "Student"):
        own, base = getattr(found, section), getattr(schema, section)
        if not (isinstance(own, type) and issubclass(own, base)):
            raise PluginError(f"{label} has a section {section} that is no subclass of kdtool.recipe.schema.{section}.")
        if problem := check_type(own):
            raise PluginError(f"{label} has a section {section} that cannot be read: {problem}")
    task = found()
    if task.name != name:
        raise PluginError(f"{label} calls itself {task.name!r}; entry point and class must agree.")
    return task
