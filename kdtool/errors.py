"""The errors a user can meet, each with its exit code.

0 success; 1 a bug in kdtool or a plugin; 2 bad input; 3 a run that could not go on (a non-finite loss, a full
disk); 130 and 143 a run stopped by Ctrl-C or SIGTERM, with a checkpoint written; 141 nobody reads the output any more.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable


class KdtoolError(Exception):
    """Base of all expected errors: shown as one message, without a traceback unless ``--debug``."""

    exit_code = 1


class InputError(KdtoolError, ValueError):
    """Something the user named is wrong. The message says what was given, what is valid and what to do."""

    exit_code = 2


class RunError(KdtoolError, RuntimeError):
    """A run that started well cannot go on."""

    exit_code = 3


class Interrupted(KdtoolError):
    """A run stopped by a signal after writing a checkpoint.

    Args:
        message: what was saved and the command that resumes it.
        exit_code: 128 plus the signal's number (130 for SIGINT, 143 for SIGTERM).
    """

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


_NAMED_WRONG = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP}
_NOT_ALLOWED = {errno.EACCES, errno.EPERM}
_NO_ROOM = {errno.ENOSPC, errno.EROFS, errno.EDQUOT}


def from_os(error: OSError) -> KdtoolError:
    """Return what the operating system refused as an error of kdtool's: a bad name or a run that cannot go on."""
    place = f" {str(error.filename)[:200]!r}" if error.filename is not None else ""
    text = f"the system refused{place}: {error.strerror or error}."
    if error.errno in _NAMED_WRONG:
        return InputError(f"{text} Check the name.")
    if error.errno in _NOT_ALLOWED:
        return InputError(f"{text} Change its permissions, or name another.")
    if error.errno in _NO_ROOM:
        text += " Make room there, or the disk writable, and start again."
    return RunError(text)


def did_you_mean(name: str, valid: Iterable[str], count: int = 3) -> str:
    """Return a sentence naming the valid names nearest to ``name``, or all of them when few and none is near."""
    names = sorted(set(valid))
    near = difflib.get_close_matches(name, names, n=count, cutoff=0.5)
    if near:
        return f"Did you mean {' or '.join(repr(n) for n in near)}?"
    if len(names) <= 30:
        return f"Valid: {', '.join(names) or 'none'}."
    return ""


def first_line(error: Exception) -> str:
    """Return an error's type and the first line of its message."""
    line = (str(error).strip().splitlines() or [""])[0][:200]
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
