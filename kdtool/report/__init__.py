"""Everything a person looks at while a run goes on, and at its end."""

from __future__ import annotations

from kdtool.report.choose import choose
from kdtool.report.events import Reporter

__all__ = ["Reporter", "choose"]
