"""Answers from worker processes (or this one), in the order asked for: samples read and made ready."""

from __future__ import annotations

import atexit
import signal
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info
from torch.utils.data._utils import signal_handling

from kdtool.errors import InputError, RunError

DEATH_SECONDS = 10
"""How long it may take until the system says how a worker ended."""

GRACE_SECONDS = 30
"""How long a worker goes on after SIGTERM."""

HELD = {signal.SIGINT, signal.SIGTERM}
"""Signals that wait while workers start."""

Request = TypeVar("Request")


class At:
    """Which sample each worker is at, in memory that it shares with the main process.

    Args:
        count: of workers.
    """

    def __init__(self, count: int):
        self.samples = torch.full((count + 1,), -1).share_memory_()

    def note(self, sample: int) -> None:
        """Note, in a worker, the number of the sample that it begins with."""
        info = get_worker_info()
        self.samples[info.id if info is not None else -1] = sample


class Workers(Generic[Request]):
    """Answers requests in their order; the i-th of a reading goes to worker i mod ``count``.

    Args:
        answering: maps a request to tensors, or to the message of an error in what the user gave.
        count: processes; 0: this one answers.
        pin: put answers into pinned memory.
        at: what ``answering`` notes its samples in.
        name: a sample's, by its number, for messages.
        what: a sample is.
    """

    def __init__(
        self, answering: Dataset[Any], count: int, pin: bool, at: At, name: Callable[[int], str], what: str = "sample"
    ):
        self.plan, self.count, self.at, self.name, self.what = _Plan[Request](), count, at, name, what
        self.loader: Any = DataLoader(
            _Answering(answering, at),
            sampler=self.plan,
            batch_size=None,
            num_workers=count,
            pin_memory=pin,
            persistent_workers=count > 0,
            worker_init_fn=_outlive_signals,
            # Of its own, so that starting workers draws nothing from the run's generator.
            generator=torch.Generator(),
        )
        self._ending: Any = None

    def read(self, requests: list[Request]) -> Iterator[Any]:
        """Yield the answers.

        Raises:
            InputError: an answer is the message of one.
            RunError: a worker ended, or failed.
        """
        self.plan.requests = requests
        with _held_signals():
            iterator = iter(self.loader)
        if self.count and self._ending is None:
            # Whoever still refers to the loader (a circle, a traceback, the end of the program): workers are told to
            # end while their queues still work. Left to torch, each takes seconds.
            self._ending = weakref.finalize(self, iterator._shutdown_workers)
            atexit.register(self._ending)
            _do_not_interrupt(iterator)
        for answer in self._watched(iterator):
            if isinstance(answer, str):
                raise InputError(answer)
            if isinstance(answer, _Failure):
                raise RunError(f"{self._named(answer.sample)} could not be read: {answer.error}")
            yield answer

    def _watched(self, iterator: Iterator[Any]) -> Iterator[Any]:
        while True:
            try:
                answer = next(iterator, None)
            except RuntimeError as error:
                if "DataLoader worker" not in str(error):
                    raise
                raise RunError(self._death(iterator)) from error
            except (EOFError, ConnectionError) as error:  # it died while its answer was being fetched
                raise RunError(self._death(iterator)) from error
            if answer is None:
                return
            yield answer

    def _death(self, iterator: Any) -> str:
        wait([worker.sentinel for worker in iterator._workers], timeout=DEATH_SECONDS)
        ended = [(number, w.exitcode) for number, w in enumerate(iterator._workers) if w.exitcode]
        number, code = ended[0] if ended else (0, 1)
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        sample = self._named(int(self.at.samples[number]))
        return (
            f"a process that reads {self.what}s {how}, at {sample}. It may have run out of memory: "
            f"data.workers={self.count // 2} needs less."
        )

    def _named(self, sample: int) -> str:
        return self.name(sample) if sample >= 0 else f"its first {self.what}"


@dataclass(frozen=True)
class _Failure:
    """An error in a worker that nobody expected, and the sample that it was at."""

    sample: int
    error: str


class _Answering(Dataset[Any]):
    """Hands a worker's unexpected error to the main process in words; torch's own way is a traceback inside another."""

    def __init__(self, answering: Dataset[Any], at: At):
        self.answering, self.at = answering, at

    def __getitem__(self, request: Any) -> Any:
        info = get_worker_info()
        try:
            return self.answering[request]
        except Exception as error:
            if info is None:
                raise
            return _Failure(int(self.at.samples[info.id]), f"{type(error).__name__}: {error}")


class _Plan(Sampler[Request]):
    """The requests of a reading."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def __iter__(self) -> Iterator[Request]:
        return iter(self.requests)

    def __len__(self) -> int:
        return len(self.requests)


def _do_not_interrupt(iterator: Any) -> None:
    """Let the death of a worker be found when its answer is waited for, not by a signal at any line of a step.

    torch raises in the main thread as soon as SIGCHLD comes, and once more for every further worker that dies; what
    waits for an answer looks for dead workers by itself, every few seconds.
    """
    if getattr(iterator, "_worker_pids_set", False):
        signal_handling._remove_worker_pids(id(iterator))  # type: ignore[attr-defined]
        iterator._worker_pids_set = False


@contextmanager
def _held_signals() -> Iterator[None]:
    """Keep signals from workers that start until they have handlers; a process begins with the mask of its parent."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _outlive_signals(worker: int) -> None:
    """Leave Ctrl-C and SIGTERM to the main process, which has a step to finish and a checkpoint to write.

    Schedulers signal all processes at once. A worker that is told to end still does, some seconds later, in case
    nobody is left to tell it otherwise.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE_SECONDS))
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
