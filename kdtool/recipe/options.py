"""One way to declare an option, for recipe sections and for a method's ``Config`` alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any


def option(
    default: Any,
    help: str,
    *,
    min: float | None = None,
    max: float | None = None,
    choices: Sequence[Any] | None = None,
) -> Any:
    """Declare a dataclass field with its default, help text and valid range.

    Args:
        default: the default value; a list, dict or dataclass type becomes a fresh copy for every instance.
        help: one sentence; shown by ``kdtool show`` and in error messages.
        min: smallest valid value, inclusive. For a list it bounds every entry.
        max: largest valid value, inclusive.
        choices: the valid values, where there are few.
    """
    metadata = {"help": help, "min": min, "max": max, "choices": tuple(choices) if choices is not None else None}
    if isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata=metadata)
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)
