"""One way to declare an option, for recipe sections and for a method's ``Config`` alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

TEACHER, OUTPUTS, STUDENT = "teacher", "outputs", "student"
"""What a key can decide: the weights of a teacher that is trained first; a teacher's outputs for the student's training
samples; the student. ``kdtool.recipe.decides`` reads it."""


def option(
    default: Any,
    help: str,
    *,
    min: float | None = None,
    max: float | None = None,
    choices: Sequence[Any] | None = None,
    decides: Sequence[str] | None = None,
    late: bool = False,
) -> Any:
    """Declare a dataclass field with its default, help text and valid range.

    Args:
        default: the default value; a list, dict or dataclass type becomes a fresh copy for every instance.
        help: one sentence; shown by ``kdtool show`` and in error messages.
        min: smallest valid value, inclusive. For a list it bounds every entry.
        max: largest valid value, inclusive.
        choices: the valid values, where there are few.
        decides: what another value may change, of ``TEACHER``, ``OUTPUTS`` and ``STUDENT``; empty: where, how fast
            and how patiently only; None: what the section decides that it stands in, in the end the student. The kept
            teacher's key, the cache's identity and the resume check follow from it.
        late: came after others had been digested: while it holds its default it is left out of digests, so that what
            older versions kept is found again.
    """
    metadata = {
        "help": help,
        "min": min,
        "max": max,
        "choices": tuple(choices) if choices is not None else None,
        "decides": frozenset(decides) if decides is not None else None,
        "late": late,
    }
    if isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata=metadata)
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)
