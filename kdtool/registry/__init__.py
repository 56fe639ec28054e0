"""Which methods are installed: entry points of the group ``kdtool.methods``, loaded on demand and cached.

A plugin that cannot be used stays listed with its error and breaks nothing else. ``none``, the engine without a
method, is core's own and no entry. Importing this module imports neither torch nor any plugin.

The environment variable ``KDTOOL_PLUGINS=a,b`` limits the plugins to those distributions (kdtool's own always count).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from kdtool import API, __version__
from kdtool.errors import InputError, did_you_mean
from kdtool.recipe.schema import RESERVED, Recipe
from kdtool.registry import entries as plugins
from kdtool.registry.entries import Entry, PluginError, wanted, wrong_version

if TYPE_CHECKING:
    from kdtool.method import Method

__all__ = ["Entry", "PluginError"]

GROUP = "kdtool.methods"
MODELS = "kdtool.models"
"""Entry-point group of packages that register networks with timm: a module, or a function that registers them."""
NONE = "none"
"""The name of a run without a method: hard labels only."""


@lru_cache(maxsize=1)
def entries() -> tuple[Entry[type[Method]], ...]:
    """Return every announced method, usable or not, sorted by name. ``entries.cache_clear()`` looks again."""
    return plugins.announced(GROUP, "method", check, _reserved())


def names() -> list[str]:
    """Return the names of all announced methods, without loading any."""
    return sorted({entry.name for entry in entries()})


def get(name: str) -> type[Method]:
    """Return the class of one method.

    Raises:
        InputError: no such method, two of that name, or one for another contract version.
        PluginError: its plugin is broken.
    """
    for entry in entries():
        if entry.name == name:
            return entry.load()
    raise InputError(
        f"there is no method {name!r}. {did_you_mean(name, [*names(), NONE])} "
        "`kdtool list-methods` shows all; others come as pip packages."
    )


def default() -> str:
    """Return the method of a run that names none: the one that kdtool's own metadata points at.

    Raises:
        InputError: the metadata points at none.
    """
    found = plugins.default_of("method", entries())
    if found is None:
        raise InputError(
            "name a method with --method NAME (in a recipe, method: NAME); `kdtool list-methods` shows all."
        )
    return found


def check(found: Any, name: str, origin: str) -> type[Method]:
    """Return ``found`` when it is a class that fits the contract.

    Args:
        found: what the entry point led to.
        name: the method's name.
        origin: its distribution and version, for the message.

    Raises:
        InputError: it was written for another contract version.
        PluginError: it is no ``Method``, or declares something that the contract does not know.
    """
    from kdtool.method import Method

    label = f"method {name!r} of {origin}"
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise PluginError(f"{label} is {found!r}, not a subclass of kdtool.Method.")
    api = getattr(found, "api", None)
    if api != API:
        raise wrong_version(label, api, API, __version__, origin.split(" ")[0])
    problem = _problem(found)
    if problem:
        raise PluginError(f"{label} {problem}")
    return found


def _problem(method: type[Method]) -> str | None:
    from kdtool.recipe.sections import check_type

    config: Any = method.Config
    if not (isinstance(config, type) and dataclasses.is_dataclass(config)):
        return "has a Config that is no dataclass; put @dataclass above it."
    unreadable = check_type(config)
    if unreadable:
        return f"has a Config that cannot be read: {unreadable}"
    if method.knowledge not in ("response", "feature", "relation"):
        return f"declares knowledge={method.knowledge!r}; valid: response, feature, relation."
    if method.batch not in ("sample", "global"):
        return f"declares batch={method.batch!r}; valid: sample, global."
    low, high = method.teachers
    if low < 0 or (high is not None and high < low):
        return f"declares teachers={method.teachers!r}; expected (smallest, largest or None)."
    return None


def _reserved() -> set[str]:
    return {field.name for field in dataclasses.fields(Recipe)} | set(RESERVED) | {NONE}


def name_problem(name: str) -> str | None:
    """Return why no method may have this name, as the rest of a sentence that names it, or None."""
    return plugins.name_problem(name, _reserved())


def origins(methods: Iterable[str]) -> list[str]:
    """Return the distributions, with versions, whose code a run with these methods loads as plugins."""
    points = [entry.point for entry in entries() if entry.name in set(methods)] + model_points()
    return sorted({f"{point.dist.name} {point.dist.version}" for point in points if point.dist is not None})


def model_points() -> list[EntryPoint]:
    """Return the entry points of packages that register networks, sorted by name."""
    found = [point for point in entry_points(group=MODELS) if wanted(point.dist.name if point.dist else "")]
    return sorted(found, key=lambda point: (point.name, point.value))
