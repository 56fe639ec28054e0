"""Names of files and folders made of what users call things."""

from __future__ import annotations

LONGEST = 60
"""Letters of a name that are kept where others stand beside it: the last ones, which tell most."""


def file_name(name: str, allowed: str = "._-", longest: int | None = LONGEST) -> str:
    """Return a name as one part of a path: letters, digits and ``allowed`` stay, all else becomes "_".

    Args:
        name: of a model, mostly.
        allowed: further characters that stay.
        longest: how many of the last characters are kept; None: all.
    """
    clean = "".join(c if c.isalnum() or c in allowed else "_" for c in name)
    return clean if longest is None else clean[-longest:]
