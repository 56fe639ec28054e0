"""What of a recipe decides what: read from the declarations of its keys, so that no list of keys is kept by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from kdtool.recipe.options import STUDENT
from kdtool.recipe.sections import to_plain


def keys_deciding(section: Any, what: str, inherited: Sequence[str] = (STUDENT,)) -> dict[str, Any]:
    """Return by dotted key the plain values of a section's keys that decide something.

    Args:
        section: an instance of a section (a dataclass of options), or of a whole recipe.
        what: "teacher", "outputs" or "student", as ``kdtool.recipe.options`` has them.
        inherited: what the keys decide that do not say.

    Returns:
        nested sections' keys are dotted; those of a list of sections carry their number, but for a list of one. Keys
        that came late are left out while they hold their default.
    """
    return dict(_walk(section, what, frozenset(inherited), ""))


def digested(section: Any) -> dict[str, Any]:
    """Return all of a section's plain values as nested mappings, but for keys that came late and hold their default."""
    kept = [field for field in dataclasses.fields(section) if not _unsaid(field, getattr(section, field.name))]
    values = {field.name: getattr(section, field.name) for field in kept}
    return {name: digested(v) if dataclasses.is_dataclass(v) else to_plain(v) for name, v in values.items()}


def _walk(section: Any, what: str, inherited: frozenset[str], prefix: str) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(section):
        value, name = getattr(section, field.name), f"{prefix}{field.name}"
        own = field.metadata.get("decides")
        decides = inherited if own is None else own
        if dataclasses.is_dataclass(value):
            yield from _walk(value, what, decides, f"{name}.")
        elif isinstance(value, list) and value and all(map(dataclasses.is_dataclass, value)):
            for number, each in enumerate(value):
                yield from _walk(each, what, decides, f"{name}." if len(value) == 1 else f"{name}.{number}.")
        elif what in decides and not _unsaid(field, value):
            yield from _plain(name, to_plain(value))


def _plain(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the entries of free mappings (``student.model_args``) one by one."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _plain(f"{name}.{key}", each)
    else:
        yield name, value


def _unsaid(field: dataclasses.Field[Any], value: Any) -> bool:
    return bool(field.metadata.get("late")) and value == _default(field)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else None
