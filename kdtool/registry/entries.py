"""What installed distributions announce in a group of entry points: loaded on demand, errors kept with entries."""

from __future__ import annotations

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from kdtool.errors import InputError, KdtoolError

T = TypeVar("T")

OWN = "kdtool"
DEFAULTS = "kdtool.defaults"
"""Entry-point group in which kdtool's own metadata say which method and which task stand for none."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")


class PluginError(KdtoolError):
    """A plugin that is installed cannot be used; the message names its distribution."""


@dataclasses.dataclass(frozen=True)
class Entry(Generic[T]):
    """One plugin as a distribution announces it.

    Attributes:
        kind: "method" or "task".
        name: what the command line calls it.
        distribution: the pip package that ships it.
        version: that package's version.
        point: its entry point.
        check: given what the point led to, the name and the origin, returns it or raises.
        refused: why it may not even be loaded (a clash of names, a reserved name), or None.
    """

    kind: str
    name: str
    distribution: str
    version: str
    point: EntryPoint
    check: Callable[[object, str, str], T]
    refused: str | None = None

    @cached_property
    def _outcome(self) -> T | KdtoolError:
        if self.refused:
            return InputError(self.refused)
        try:
            found = self.point.load()
        except (Exception, SystemExit) as cause:  # a plugin may fail in any way; the others must not notice
            why = f"{type(cause).__name__}: {cause}"
            error = PluginError(f"{self.kind} {self.name!r} of {self.origin} cannot be imported: {why}")
            error.__cause__ = cause
            return error
        try:
            return self.check(found, self.name, self.origin)
        except KdtoolError as refusal:
            return refusal

    @property
    def origin(self) -> str:
        """The distribution and its version, as messages name them."""
        return f"{self.distribution} {self.version}"

    @property
    def error(self) -> str | None:
        """Why the plugin cannot be used, or None. Loads it."""
        return str(self._outcome) if isinstance(self._outcome, KdtoolError) else None

    def load(self) -> T:
        """Return the plugin.

        Raises:
            PluginError: it cannot be imported, or is no proper plugin of its kind.
            InputError: its name clashes or is reserved, or it was written for another contract version.
        """
        if isinstance(self._outcome, KdtoolError):
            raise self._outcome
        return self._outcome


def announced(
    group: str, kind: str, check: Callable[[object, str, str], T], reserved: Iterable[str]
) -> tuple[Entry[T], ...]:
    """Return every plugin of a group, usable or not, sorted by name.

    Args:
        group: of entry points.
        kind: what messages call such a plugin.
        check: see ``Entry``.
        reserved: names that none may have.
    """
    taken = set(reserved)
    found = [_entry(point, kind, check, taken) for point in entry_points(group=group)]
    found = [entry for entry in found if wanted(entry.distribution)]
    count = Counter(entry.name for entry in found)
    found = [_clash(entry, found) if count[entry.name] > 1 else entry for entry in found]
    return tuple(sorted(found, key=lambda entry: (entry.name, entry.distribution)))


def default_of(kind: str, entries: Iterable[Entry[T]]) -> str | None:
    """Return the name of the plugin that kdtool's own metadata point at where none is named; None: at none."""
    for point in entry_points(group=DEFAULTS, name=kind):
        for entry in entries:
            if same(entry.distribution, OWN) and entry.point.value == point.value:
                return entry.name
    return None


def _entry(point: EntryPoint, kind: str, check: Callable[[object, str, str], T], taken: set[str]) -> Entry[T]:
    distribution = point.dist.name if point.dist else "an unknown distribution"
    version = point.dist.version if point.dist else "?"
    problem = name_problem(point.name, taken)
    refused = f"{distribution} {version} calls a {kind} {point.name!r}{problem}" if problem else None
    return Entry(kind, point.name, distribution, version, point, check, refused)


def name_problem(name: str, taken: Iterable[str]) -> str | None:
    """Return why no plugin may have this name, as the rest of a sentence that names it, or None."""
    if name in taken:
        return ", which is a name of kdtool's own; choose another."
    if not _NAME.fullmatch(name):
        return "; a name consists of lower-case letters, digits and _, and starts with a letter."
    return None


def _clash(entry: Entry[T], found: Iterable[Entry[T]]) -> Entry[T]:
    rivals = sorted(other.origin for other in found if other.name == entry.name)
    text = (
        f"two packages ship a {entry.kind} {entry.name!r}: {' and '.join(rivals)}. Uninstall one, "
        "or name those to use in the environment variable KDTOOL_PLUGINS (separated by commas)."
    )
    return dataclasses.replace(entry, refused=text)


def wrong_version(label: str, api: object, own: int, version: str, distribution: str) -> InputError:
    """Return the error for a plugin that was written for another contract version."""
    return InputError(
        f"{label} was written for contract version {api}; this kdtool ({version}) speaks version {own}. "
        f"Install a version of {distribution} or of kdtool that fits the other."
    )


def wanted(distribution: str) -> bool:
    """Return whether ``KDTOOL_PLUGINS`` lets this distribution's plugins in."""
    limit = os.environ.get("KDTOOL_PLUGINS")
    if limit is None or same(distribution, OWN):
        return True
    return any(same(distribution, name) for name in limit.split(","))


def same(a: str, b: str) -> bool:
    """Tell whether two spellings name one distribution (PEP 503)."""
    return re.sub(r"[-_.]+", "-", a.strip()).lower() == re.sub(r"[-_.]+", "-", b.strip()).lower()
