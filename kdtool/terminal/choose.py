"""Which reporter fits where the output goes."""

from __future__ import annotations

import os
import sys

from kdtool.events import Reporter
from kdtool.system.parallel import is_first


def choose(*, json: bool = False, quiet: bool = False) -> Reporter:
    """Return a live view for terminals and plain lines for everything else; of several processes one speaks.

    Args:
        json: standard output belongs to a JSON document, so all else goes to standard error.
        quiet: only warnings, on standard error, and without ``json`` the final table.
    """
    if not is_first():
        return Reporter()
    stream = sys.stderr if json else sys.stdout
    if quiet:
        from kdtool.terminal.plain import QuietReporter

        return QuietReporter(None if json else stream)
    if stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown"):
        from kdtool.terminal.live import RichReporter

        return RichReporter(stream, table=not json)
    from kdtool.terminal.plain import PlainReporter

    return PlainReporter(stream, table=not json)
