"""Decoded batches from worker processes (or this one), in the order asked for."""

from __future__ import annotations

import atexit
import signal
import weakref
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from kdtool.errors import InputError, RunError

GRACE_SECONDS = 30
"""How long a worker goes on after SIGTERM."""

Request = TypeVar("Request")


class Workers(Generic[Request]):
    """Answers requests in their order; the i-th of a reading goes to worker i mod ``count``.

    Args:
        answering: maps a request to tensors, or to the message of an error in what the user gave.
        count: processes; 0: this one answers.
        pin: put answers into pinned memory.
    """

    def __init__(self, answering: Dataset[Any], count: int, pin: bool):
        self.plan, self.count = _Plan[Request](), count
        self.loader: Any = DataLoader(
            answering,
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
            RunError: a worker ended.
        """
        self.plan.requests = requests
        iterator = iter(self.loader)
        if self.count and self._ending is None:
            # Whoever still refers to the loader (a circle, a traceback, the end of the program): workers are told to
            # end while their queues still work. Left to torch, each takes seconds.
            self._ending = weakref.finalize(self, iterator._shutdown_workers)
            atexit.register(self._ending)
        for answer in self._watched(iterator):
            if isinstance(answer, str):
                raise InputError(answer)
            yield answer

    def _watched(self, iterator: Iterator[Any]) -> Iterator[Any]:
        while True:
            try:
                answer = next(iterator, None)
            except RuntimeError as error:
                if "DataLoader worker" not in str(error):
                    raise
                raise RunError(
                    f"a process that decodes images ended ({error}). It may have run out of memory: data.workers="
                    f"{self.count // 2} needs less."
                ) from error
            if answer is None:
                return
            yield answer


class _Plan(Sampler[Request]):
    """The requests of a reading."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def __iter__(self) -> Iterator[Request]:
        return iter(self.requests)

    def __len__(self) -> int:
        return len(self.requests)


def _outlive_signals(worker: int) -> None:
    """Leave Ctrl-C and SIGTERM to the main process, which has a step to finish and a checkpoint to write.

    Schedulers signal all processes at once. A worker that is told to end still does, some seconds later, in case
    nobody is left to tell it otherwise.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE_SECONDS))
