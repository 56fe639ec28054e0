"""Where kdtool keeps what outlives a run."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """Return the cache folder: ``KDTOOL_HOME``, else ``$XDG_CACHE_HOME/kdtool``, else ``~/.cache/kdtool``."""
    named = os.environ.get("KDTOOL_HOME")
    if named:
        return Path(named).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser().absolute() / "kdtool"
