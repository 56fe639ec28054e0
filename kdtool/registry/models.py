"""Packages that register networks with a library of models: entry points of the group ``kdtool.models``."""

from __future__ import annotations

from functools import cache
from types import ModuleType

from kdtool.registry import model_points


@cache
def register() -> tuple[str, ...]:
    """Load every such package, once; return a warning for each one that is broken."""
    warnings = []
    for entry in model_points():
        try:
            loaded = entry.load()
            if callable(loaded) and not isinstance(loaded, ModuleType):
                loaded()
        except Exception as error:  # a stranger's package may fail in any way; the others must still work
            origin = entry.dist.name if entry.dist is not None else "an unknown package"
            warnings.append(
                f"the networks of {entry.name!r} ({origin}) are not available: {type(error).__name__}: {error}"
            )
    return tuple(warnings)
