"""An output that nobody reads any more: ``kdtool run | head`` is stopped by it, and nothing has failed."""

from __future__ import annotations

import os
import select
import sys
from typing import TextIO

EXIT_CODE = 141
"""128 plus the number of SIGPIPE, by which other tools end that write to a closed pipe."""


def is_why(error: BaseException) -> bool:
    """Tell whether an error came of an output that nobody reads any more.

    A broken pipe alone does not say so: a server, or a process of a run's own, may have gone away, which is a failure.
    """
    if isinstance(error, SystemExit):  # rich, in whose place of standard output there is none already
        return isinstance(error.__context__, BrokenPipeError)
    return isinstance(error, BrokenPipeError) and bool(_closed())


def silence() -> None:
    """Let what is still to be written to closed outputs, Python's own flush at its end too, go nowhere."""
    for stream in _closed():
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _closed() -> list[TextIO]:
    return [stream for stream in (sys.__stdout__, sys.__stderr__) if stream is not None and _is_closed(stream)]


def _is_closed(stream: TextIO) -> bool:
    try:
        number = stream.fileno()
    except (OSError, ValueError):  # no file of the system's
        return False
    if not hasattr(select, "poll"):  # Windows names it otherwise than by a broken pipe
        return False
    asked = select.poll()
    asked.register(number, select.POLLOUT)
    return any(found & (select.POLLERR | select.POLLHUP) for _, found in asked.poll(0))
