"""Processes that read: signals do not end them, and whoever dies is told of by its sample."""

from __future__ import annotations

import gc
import os
import signal

import pytest
import torch
from PIL import Image

from kdtool.errors import RunError
from tests.tasks.images.data.test_loader import ANEW, Pictures, _all, _loader, _same, _split


def test_a_lost_loader_ends_its_workers_at_once() -> None:
    # In a circle, as after an error with a traceback: a garbage collection finds it, not a count of references.
    others = {*torch.multiprocessing.active_children()}
    loader = _loader(cfg=ANEW, workers=2)
    _all(loader)
    loader.itself = loader  # type: ignore[attr-defined]
    assert {*torch.multiprocessing.active_children()} - others
    del loader
    gc.collect()
    assert not {*torch.multiprocessing.active_children()} - others


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="POSIX signals")
def test_a_signal_to_the_whole_group_does_not_end_workers_at_once() -> None:
    # A scheduler signals every process; the run still has to finish its step and write its checkpoint.
    loader = _loader(cfg=ANEW, workers=2)
    batches = loader.epoch(0)
    got = [next(batches)]
    for worker in torch.multiprocessing.active_children():
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGTERM)
        os.kill(worker.pid, signal.SIGINT)
    got.extend(batches)
    assert _same(got, _all(_loader(cfg=ANEW)))


def test_a_signal_to_a_worker_that_only_starts_does_not_end_it() -> None:
    signalled = [signal.SIGTERM, signal.SIGINT]

    def at_birth() -> None:
        for number in signalled:
            os.kill(os.getpid(), number)

    os.register_at_fork(after_in_child=at_birth)
    try:
        batches = _all(_loader(cfg=ANEW, workers=2))
    finally:
        signalled.clear()  # what is registered stays so
    assert _same(batches, _all(_loader(cfg=ANEW)))


class Deadly(Pictures):
    """Ends the process that reads image 20, or fails in a way that nobody expected."""

    def __init__(self, by: signal.Signals | None = None):
        super().__init__()
        self.by = by

    def __getitem__(self, row: int) -> Image.Image:
        if row == 20 and self.by is not None:
            os.kill(os.getpid(), self.by)
        if row == 20:
            raise MemoryError("of no use")
        return super().__getitem__(row)


@pytest.mark.parametrize(
    ("by", "words"),
    [
        (signal.SIGKILL, "was ended by SIGKILL, at image 20. It may have run out of memory: data.workers=1 needs less"),
        (None, "image 20 could not be read: MemoryError: of no use"),
    ],
    ids=["killed", "failed"],
)
def test_a_worker_that_dies_says_at_which_sample(by: signal.Signals | None, words: str) -> None:
    loader = _loader(_split(Deadly(by)), train=False, memory_budget_gb=0.0, workers=2)
    with pytest.raises(RunError) as caught:
        _all(loader)
    assert words in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_a_worker_that_dies_meanwhile_interrupts_no_step() -> None:
    loader = _loader(train=False, memory_budget_gb=0.0, workers=2, batch_size=2)
    batches = loader.epoch(0)
    next(batches)
    workers = torch.multiprocessing.active_children()
    for worker in workers:
        worker.kill()
    for worker in workers:  # here, in what stands for a step, torch would raise
        worker.join()
    with pytest.raises(RunError, match="was ended by SIGKILL"):
        list(batches)
