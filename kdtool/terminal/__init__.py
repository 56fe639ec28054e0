"""Everything a person looks at while a run goes on, and at its end."""

from __future__ import annotations

from kdtool.events import Reporter
from kdtool.terminal.choose import choose

__all__ = ["Reporter", "choose"]
