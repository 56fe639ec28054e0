"""SIGTERM and Ctrl-C: finish the step, checkpoint, leave. A second signal leaves at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

from kdtool.errors import Interrupted


class StopRequest:
    """Context in which the first SIGINT or SIGTERM only sets ``signal``; files are never torn by the second."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        # Handlers belong to the main thread; elsewhere (a notebook's worker, a server) signals keep their meaning.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._stop)
        return self

    def _stop(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number

    def check(self, resume_command: str) -> None:
        """Raise ``Interrupted`` if a stop was asked for; to be called where the run's folder is in order."""
        if self.signal is not None:
            raise Interrupted(f"stopped; resume with: {resume_command}", 128 + self.signal)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before.clear()
