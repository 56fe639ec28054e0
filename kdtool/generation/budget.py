"""What may be spent on a set, and what was."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from kdtool.errors import InputError
from kdtool.generation.request import Answer, Request


@dataclass(frozen=True)
class Price:
    """What a million tokens cost, read and written, in whatever currency."""

    prompt: float
    completion: float

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return what tokens cost."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


def price_of(text: str) -> Price:
    """Return the price that ``--price IN,OUT`` names.

    Raises:
        InputError: it is no two numbers of at least 0.
    """
    try:
        prompt, completion = (float(part) for part in text.split(","))
    except ValueError:
        prompt = completion = -1.0
    if not (0 <= prompt < 1e9 and 0 <= completion < 1e9):
        raise InputError(f"--price {text}: expected what a million tokens cost, read and written, such as 0.5,1.5.")
    return Price(prompt, completion)


class Budget:
    """Counts what is spent, so that a limit is not passed even with many requests under way.

    Args:
        max_requests: requests at most, those that failed included; None: no limit.
        max_tokens: tokens at most, read and written; None: no limit.
        spent: tokens that went into the same set before.
        sent: requests that did.

    Attributes:
        retries: requests that were sent again.
    """

    def __init__(self, max_requests: int | None, max_tokens: int | None, spent: int = 0, sent: int = 0):
        self.max_requests, self.max_tokens = max_requests, max_tokens
        self.spent, self.sent = spent, sent
        self.retries = 0
        self._reserved = 0
        self._lock = threading.Lock()

    def reserve(self, requests: Sequence[Request]) -> bool:
        """Set the tokens that requests may take at most aside; False: they do not fit any more."""
        needed = sum(map(_most, requests))
        with self._lock:
            if self.max_tokens is not None and self.spent + self._reserved + needed > self.max_tokens:
                return False
            self._reserved += needed
            return True

    def settle(self, requests: Sequence[Request], answers: Sequence[Answer]) -> None:
        """Put what was taken, which is nothing without answers, in the place of what was set aside."""
        with self._lock:
            self._reserved -= sum(map(_most, requests))
            self.spent += sum(answer.prompt_tokens + answer.completion_tokens for answer in answers)

    def send(self, count: int, again: bool = False) -> bool:
        """Count requests that are about to be sent, for the first time or again; False: they are too many."""
        with self._lock:
            if self.max_requests is not None and self.sent + count > self.max_requests:
                return False
            self.sent += count
            self.retries += count * again
            return True


def _most(request: Request) -> int:
    return request.estimate() + request.sampling.new_tokens
