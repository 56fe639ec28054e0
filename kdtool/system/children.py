"""Child processes: Python in a session of its own, that ends with its parent, and whose end is told in words."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

LIFELINE = "KDTOOL_LIFELINE"
"""Names the pipe by which a process learns that the one which started it is gone."""


class Lifeline:
    """A pipe whose other end closes when this process ends, however that comes about."""

    def __init__(self) -> None:
        self.theirs, self._ours = os.pipe()

    def close(self) -> None:
        """End the children that were started with it and still run."""
        for descriptor in (self.theirs, self._ours):
            with contextlib.suppress(OSError):
                os.close(descriptor)


def die_with_parent() -> None:
    """End this process when the one that started it ends."""
    descriptor = os.environ.get(LIFELINE)
    if descriptor is None:
        return

    def watch() -> None:
        os.read(int(descriptor), 1)  # nothing is ever written: it returns when the other end is closed
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@dataclass
class Child:
    """A process that was started.

    Attributes:
        process: itself.
        said: what it writes to standard error, where that is kept; else None.
    """

    process: subprocess.Popen[Any]
    said: IO[bytes] | None

    def words(self) -> str:
        """Return what it said on standard error, "" where that is not kept."""
        if self.said is None:
            return ""
        self.said.seek(0)
        return self.said.read().decode(errors="replace").strip()

    def runs(self) -> bool:
        """Tell whether it has not ended."""
        return self.process.poll() is None

    def signal(self, number: int, all_of_it: bool = False) -> None:
        """Pass a signal on to it, or to all that it started too."""
        if self.runs():
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if all_of_it else os.kill)(self.process.pid, number)

    def end(self) -> None:
        """Kill it where it still runs, and let go of its streams."""
        self.signal(signal.SIGKILL, all_of_it=True)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.said):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def start(
    arguments: Sequence[str],
    lifeline: Lifeline,
    *,
    environment: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
    stdout: int | None = subprocess.DEVNULL,
    said: IO[Any] | None = None,
    keep_words: bool = False,
    text: bool = False,
) -> Child:
    """Start Python with these arguments.

    Args:
        arguments: after the interpreter: "-m", a module, ...
        lifeline: of this process's.
        environment: on top of this process's.
        stdin, stdout: as for ``subprocess.Popen``.
        said: a file for standard error; None: this process's own, unless ``keep_words``.
        keep_words: keep standard error, for ``Child.words``.
        text: the streams are of text.
    """
    kept = tempfile.TemporaryFile() if keep_words else None  # noqa: SIM115 - closed with the child
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, **(environment or {}), LIFELINE: str(lifeline.theirs)},
        stdin=stdin,
        stdout=stdout,
        stderr=kept or said,
        text=text,
        pass_fds=(lifeline.theirs,),
        start_new_session=True,  # a terminal's Ctrl-C reaches it through its parent, once
    )
    return Child(process, kept)


def shared_threads(count: int) -> str:
    """Return how many threads each of ``count`` processes gets: processes that each use all cores spin against one
    another. ``OMP_NUM_THREADS`` overrules."""
    return os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))


def ending(code: int) -> str:
    """Return how a process with this exit code ended: "SIGKILL" or "exit code 3"."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
