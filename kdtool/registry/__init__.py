"""Which methods are installed: entry points of the group ``kdtool.methods``, loaded on demand and cached.

A plugin that cannot be used stays listed with its error and breaks nothing else. ``none``, the engine without a
method, is core's own and no entry. Importing this module imports neither torch nor any plugin.

The environment variable ``KDTOOL_PLUGINS=a,b`` limits the plugins to those distributions (kdtool's own always count).
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Iterable
from functools import cached_property, lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from kdtool import API, __version__
from kdtool.errors import InputError, KdtoolError, did_you_mean
from kdtool.recipe.schema import RESERVED, Recipe

if TYPE_CHECKING:
    from kdtool.method import Method

GROUP = "kdtool.methods"
MODELS = "kdtool.models"
"""Entry-point group of packages that register networks with timm: a module, or a function that registers them."""
NONE = "none"
"""The name of a run without a method: hard labels only."""

_OWN = "kdtool"
_NAME = re.compile(r"[a-z][a-z0-9_]*")


class PluginError(KdtoolError):
    """A plugin that is installed cannot be used; the message names its distribution."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One method as a distribution announces it.

    Attributes:
        name: what ``--method`` takes.
        distribution: the pip package that ships it.
        version: that package's version.
        point: its entry point.
        refused: why it may not even be loaded (a clash of names, a reserved name), or None.
    """

    name: str
    distribution: str
    version: str
    point: EntryPoint
    refused: str | None = None

    @cached_property
    def _outcome(self) -> type[Method] | KdtoolError:
        if self.refused:
            return InputError(self.refused)
        try:
            found = self.point.load()
        except (Exception, SystemExit) as cause:  # a plugin may fail in any way; the others must not notice
            error = PluginError(f"method {self.name!r} of {self.origin} cannot be imported: {_named(cause)}")
            error.__cause__ = cause
            return error
        try:
            return check(found, self.name, self.origin)
        except KdtoolError as refusal:
            return refusal

    @property
    def origin(self) -> str:
        """The distribution and its version, as messages name them."""
        return f"{self.distribution} {self.version}"

    @property
    def error(self) -> str | None:
        """Why the method cannot be used, or None. Loads it."""
        return str(self._outcome) if isinstance(self._outcome, KdtoolError) else None

    def load(self) -> type[Method]:
        """Return the method's class.

        Raises:
            PluginError: it cannot be imported, or is no proper method.
            InputError: its name clashes or is reserved, or it was written for another contract version.
        """
        if isinstance(self._outcome, KdtoolError):
            raise self._outcome
        return self._outcome


@lru_cache(maxsize=1)
def entries() -> tuple[Entry, ...]:
    """Return every announced method, usable or not, sorted by name. ``entries.cache_clear()`` looks again."""
    found = [_entry(point) for point in entry_points(group=GROUP)]
    found = [entry for entry in found if wanted(entry.distribution)]
    count = Counter(entry.name for entry in found)
    found = [_clash(entry, found) if count[entry.name] > 1 else entry for entry in found]
    return tuple(sorted(found, key=lambda entry: (entry.name, entry.distribution)))


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
    for point in entry_points(group="kdtool.defaults", name="method"):
        for entry in entries():
            if _same(entry.distribution, _OWN) and entry.point.value == point.value:
                return entry.name
    raise InputError("name a method with --method NAME (in a recipe, method: NAME); `kdtool list-methods` shows all.")


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
        raise InputError(
            f"{label} was written for contract version {api}; this kdtool ({__version__}) speaks version {API}. "
            f"Install a version of {origin.split(' ')[0]} or of kdtool that fits the other."
        )
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


def _entry(point: EntryPoint) -> Entry:
    distribution = point.dist.name if point.dist else "an unknown distribution"
    version = point.dist.version if point.dist else "?"
    problem = name_problem(point.name)
    refused = f"{distribution} {version} calls a method {point.name!r}{problem}" if problem else None
    return Entry(point.name, distribution, version, point, refused)


def name_problem(name: str) -> str | None:
    """Return why no method may have this name, as the rest of a sentence that names it, or None."""
    taken = {field.name for field in dataclasses.fields(Recipe)} | set(RESERVED) | {NONE}
    if name in taken:
        return ", which is a name of kdtool's own; choose another."
    if not _NAME.fullmatch(name):
        return "; a name consists of lower-case letters, digits and _, and starts with a letter."
    return None


def _clash(entry: Entry, found: Iterable[Entry]) -> Entry:
    rivals = sorted(other.origin for other in found if other.name == entry.name)
    text = (
        f"two packages ship a method {entry.name!r}: {' and '.join(rivals)}. Uninstall one, "
        "or name those to use in the environment variable KDTOOL_PLUGINS (separated by commas)."
    )
    return dataclasses.replace(entry, refused=text)


def origins(methods: Iterable[str]) -> list[str]:
    """Return the distributions, with versions, whose code a run with these methods loads as plugins."""
    points = [entry.point for entry in entries() if entry.name in set(methods)] + model_points()
    return sorted({f"{point.dist.name} {point.dist.version}" for point in points if point.dist is not None})


def model_points() -> list[EntryPoint]:
    """Return the entry points of packages that register networks, sorted by name."""
    found = [point for point in entry_points(group=MODELS) if wanted(point.dist.name if point.dist else "")]
    return sorted(found, key=lambda point: (point.name, point.value))


def wanted(distribution: str) -> bool:
    """Return whether ``KDTOOL_PLUGINS`` lets this distribution's plugins in."""
    limit = os.environ.get("KDTOOL_PLUGINS")
    if limit is None or _same(distribution, _OWN):
        return True
    return any(_same(distribution, name) for name in limit.split(","))


def _same(a: str, b: str) -> bool:
    """Tell whether two spellings name one distribution (PEP 503)."""
    return re.sub(r"[-_.]+", "-", a.strip()).lower() == re.sub(r"[-_.]+", "-", b.strip()).lower()


def _named(cause: BaseException) -> str:
    return f"{type(cause).__name__}: {cause}"
