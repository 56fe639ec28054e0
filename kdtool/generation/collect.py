"""Requests asked at a time, again where they failed, and their answers kept as they come."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from kdtool.engine.signals import StopRequest
from kdtool.errors import Interrupted, RunError
from kdtool.events import Reporter
from kdtool.generation.budget import Budget
from kdtool.generation.patience import Gate, Patience
from kdtool.generation.request import Answer, Fault, Refused, Request, Teacher
from kdtool.generation.store import Store

SPEAK_S = 1.0
"""Seconds between two words on how far it is."""

_GLANCE_S = 0.1
_FEWEST = 3
"""Requests in a row, at least, that have to fail before a teacher counts as gone."""


@dataclass
class Tally:
    """What became of requests.

    Attributes:
        wanted: how many different ones there were.
        there: how many were answered before.
        answered, refused: how many were now.
        failed: (request, why) of those that were given up.
        tokens: written, as far as answers tell.
        seconds: how long it took.
        stopped: why not all were asked, None where they were.
    """

    wanted: int = 0
    there: int = 0
    answered: int = 0
    refused: int = 0
    failed: list[tuple[Request, str]] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0
    stopped: str | None = None

    @property
    def done(self) -> int:
        """How many are settled, for better or worse."""
        return self.there + self.answered + self.refused + len(self.failed)


Outcome = list[Answer] | Exception | None
"""Answers, what went wrong, or None: it was not asked to the end."""


class _Spent(Exception):
    """No further request may be sent."""


class Collector:
    """Asks one teacher.

    Args:
        teacher: whom.
        store: where answers go.
        budget: what may be spent.
        patience: how often and when a request is sent again.
        reporter: hears how far it is.
    """

    def __init__(self, teacher: Teacher, store: Store, budget: Budget, patience: Patience, reporter: Reporter):
        self.teacher, self.store, self.budget = teacher, store, budget
        self.patience, self.reporter = patience, reporter
        self.gate = Gate()

    def collect(self, requests: Iterable[Request], name: str) -> Tally:
        """Ask for what is not kept yet.

        Args:
            requests: all that are wanted; equal ones are asked once.
            name: what this is called on the terminal.

        Raises:
            Interrupted: by a signal; what was under way has been waited for and kept.
            InputError, RunError: asking further makes no sense, or answers cannot be kept.
        """
        wanted = {request.key: request for request in requests}
        missing = [request for key, request in wanted.items() if key not in self.store]
        tally = Tally(len(wanted), len(wanted) - len(missing))
        if missing:
            size = self.teacher.at_once
            _Round(self, tally, name, [missing[i : i + size] for i in range(0, len(missing), size)]).run()
        return tally


class _Round:
    """One run over what is missing: threads ask, and the thread that called keeps what they bring."""

    def __init__(self, collector: Collector, tally: Tally, name: str, groups: Sequence[Sequence[Request]]):
        self.by, self.tally, self.name = collector, tally, name
        self.waiting = deque(groups)
        self.workers = min(collector.teacher.workers, len(groups))
        self.todo: SimpleQueue[Sequence[Request] | None] = SimpleQueue()
        self.done: SimpleQueue[tuple[Sequence[Request], Outcome]] = SimpleQueue()
        self.halt = threading.Event()
        self.under_way = self.in_a_row = 0
        self.began = self.spoke = time.monotonic()
        self.error: Exception | None = None
        self.refusals: list[tuple[Sequence[Request], str]] = []

    def run(self) -> None:
        for _ in range(self.workers):
            # Where a second signal ends all at once, nobody waits for their connections.
            threading.Thread(target=self._work, daemon=True).start()
        with StopRequest() as stop:
            try:
                while self.under_way or (self.waiting and not self.halt.is_set()):
                    self._hand_out()
                    try:
                        group, outcome = self.done.get(timeout=_GLANCE_S)
                    except Empty:
                        pass
                    else:
                        self.under_way -= 1
                        self._settle(group, outcome)
                    self._speak()
                    if stop.signal is not None and not self.halt.is_set():
                        self.halt.set()
                        self.by.reporter.note(f"stopped; waiting for {self.under_way} answers that are under way")
            finally:
                self.halt.set()
                for _ in range(self.workers):
                    self.todo.put(None)
            self.tally.seconds = time.monotonic() - self.began
            self._speak(last=True)
            if self.error is None and self.refusals:
                self._never_answered()
            if self.error is not None:
                raise self.error
            if stop.signal is not None:
                raise Interrupted(
                    f"stopped; {self.tally.there + self.tally.answered} of {self.tally.wanted} answers are kept. The "
                    "same command goes on.",
                    128 + stop.signal,
                )

    def _hand_out(self) -> None:
        while self.waiting and self.under_way < self.workers and not self.halt.is_set():
            if not self.by.budget.reserve(self.waiting[0]):
                if not self.under_way:  # else some of what is set aside may come back
                    self.tally.stopped = f"--max-tokens-total {self.by.budget.max_tokens} is used up"
                    self.halt.set()
                return
            self.todo.put(self.waiting.popleft())
            self.under_way += 1

    def _settle(self, group: Sequence[Request], outcome: Outcome) -> None:
        self.by.budget.settle(group, outcome if isinstance(outcome, list) else ())
        tally = self.tally
        if isinstance(outcome, list):
            self.in_a_row = 0
            for request, answer in zip(group, outcome, strict=True):
                self.by.store.add(request, answer)
                tally.answered += 1
                tally.tokens += answer.completion_tokens
        elif isinstance(outcome, Fault):
            tally.failed += [(request, str(outcome)) for request in group]
            self.in_a_row += 1
            if self.in_a_row >= max(_FEWEST, self.workers):
                self._end(
                    RunError(
                        f"{self.by.teacher.name} has failed {self.in_a_row} requests in a row, each tried "
                        f"{self.by.patience.retries + 1} times (the last: it {outcome}). "
                        f"{tally.there + tally.answered} of {tally.wanted} answers are kept; the same command goes on."
                    )
                )
        elif isinstance(outcome, Refused):
            self.refusals.append((group, str(outcome)))
        elif isinstance(outcome, _Spent):
            self.halt.set()
            tally.stopped = f"--max-requests {self.by.budget.max_requests} is used up"
        elif outcome is not None:
            self._end(outcome)
        self._keep_refusals()

    def _keep_refusals(self) -> None:
        """Note what the teacher will not answer; where it never answered anything, the requests are wrong as such."""
        if self.tally.there + self.tally.answered:
            for group, why in self.refusals:
                for request in group:
                    self.by.store.add(request, None, why)
                self.tally.refused += len(group)
            self.refusals = []
        elif len(self.refusals) >= _FEWEST:
            self._never_answered()

    def _never_answered(self) -> None:
        self._end(RunError(f"{self.by.teacher.name} refuses what it is asked ({self.refusals[0][1]})."))

    def _end(self, error: Exception) -> None:
        self.error = self.error or error
        self.halt.set()

    def _speak(self, last: bool = False) -> None:
        now = time.monotonic()
        if now - self.spoke < SPEAK_S and not last:
            return
        self.spoke, tally = now, self.tally
        seconds = max(now - self.began, 1e-9)
        figures = {"tokens/s": tally.tokens / seconds, "failed": float(len(tally.failed))}
        figures["retries"] = float(self.by.budget.retries)
        pace = (tally.done - tally.there) / seconds
        self.by.reporter.progress(self.name, tally.done, tally.wanted, figures, pace)

    # --- in the workers' threads ------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (group := self.todo.get()) is not None:
            try:
                outcome = self._ask(group)
            except Exception as error:  # raised again where it is waited for
                outcome = error
            self.done.put((group, outcome))

    def _ask(self, group: Sequence[Request]) -> Outcome:
        patience, last = self.by.patience, Fault("was not asked")
        for attempt in range(patience.retries + 1):
            self.by.gate.wait(self.halt)
            if self.halt.is_set():
                return None
            if not self.by.budget.send(len(group), again=attempt > 0):
                return _Spent()
            try:
                return self.by.teacher.ask(group)
            except Fault as fault:
                last = fault
            if last.wait is not None:
                if last.wait > patience.obeyed_s:
                    return RunError(f"{self.by.teacher.name} asks to be left alone for {last.wait:.0f} s: try then.")
                self.by.gate.close(last.wait)
            if attempt < patience.retries:
                self.halt.wait(patience.pause(attempt, last.wait))
        return last
