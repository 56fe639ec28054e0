"""Lengths of time as people write them: "2h", "90m", "1h30m", "45s"."""

from __future__ import annotations

import re

from kdtool.errors import InputError

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([dhms])\s*")


def seconds(text: str, key: str) -> float:
    """Return the seconds of a length of time.

    Args:
        text: numbers, each with its unit: d, h, m or s.
        key: the recipe's, for the message.

    Raises:
        InputError: it is none, or zero.
    """
    parts, rest = _PART.findall(text.lower()), _PART.sub("", text.lower()).strip()
    found = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if rest or found <= 0:
        raise InputError(f"{key}={text} is no length of time. Write it with its unit: 2h, 90m, 1h30m, 45s.")
    return found
