"""How long to wait before a request is sent again."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Patience:
    """When to try again.

    Attributes:
        retries: how often, after the first time.
        first_s: before the first of them; twice as long before each further one.
        longest_s: at most.
        obeyed_s: the longest that a server may ask for; who asks for more is not asked again in this run.
    """

    retries: int = 6
    first_s: float = 1.0
    longest_s: float = 60.0
    obeyed_s: float = 600.0

    def pause(self, attempt: int, asked: float | None) -> float:
        """Return the seconds to wait after failed attempt number ``attempt``, from 0.

        Half of them are random, so that requests that failed together do not come back together (Brooker, "Exponential
        Backoff And Jitter", 2015). What the server asks for is waited for whole.
        """
        own = min(self.first_s * 2.0**attempt, self.longest_s)
        return own * (0.5 + 0.5 * random.random()) if asked is None else asked + 0.5 * own * random.random()


class Gate:
    """Closed while the server wants to be left alone, for all who ask it."""

    def __init__(self) -> None:
        self._opens = 0.0
        self._lock = threading.Lock()

    def close(self, seconds: float) -> None:
        """Keep it closed for at least so long."""
        with self._lock:
            self._opens = max(self._opens, time.monotonic() + seconds)

    def wait(self, halt: threading.Event) -> None:
        """Return once it is open, or ``halt`` is set."""
        while (left := self._opens - time.monotonic()) > 0 and not halt.wait(min(left, 1.0)):
            pass
