"""What a model's name in a recipe says of itself."""

from __future__ import annotations


def is_own_file(name: str) -> bool:
    """Return whether a model is given as the user's own ``path/to/file.py:function``."""
    return name.endswith(".py") or ".py:" in name
