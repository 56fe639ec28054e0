"""The engine beside the floor: one real training, whose batches come in blocks with blocks of the floor between."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from kdtool.engine.job import Batches, Job, Loaded
from kdtool.engine.signals import StopRequest
from kdtool.engine.trainer import fit
from kdtool.events import Reporter
from kdtool.measure.bench.floor import synchronize
from kdtool.recipe.schema import Checkpoint

ENDLESS = 1_000_000
"""Steps that the engine believes an epoch to have: what it does once an epoch is not a step's cost."""


class Interleaved:
    """A run's batches, by blocks; before each the floor takes as many steps.

    Args:
        batches: the run's own.
        floor: takes a number of steps and returns the seconds.
        pairs: of blocks.
        steps: in a block.
        job: whose device is waited for.
    """

    def __init__(self, batches: Batches, floor: Callable[[int], float], pairs: int, steps: int, job: Job):
        self.batches, self.floor, self.pairs, self.block, self.device = batches, floor, pairs, steps, job.device
        self.floor_s: list[float] = []
        self.engine_s: list[float] = []

    @property
    def steps(self) -> int:
        return ENDLESS

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Loaded]:
        """Yield all blocks' batches."""
        endless = itertools.chain.from_iterable(self.batches.epoch(number) for number in itertools.count())
        # Both warm up first: the engine has just begun a stage, and may have dropped what was compiled before.
        yield from itertools.islice(endless, self.block)
        self.floor(self.block)
        for _ in range(self.pairs):
            self.floor_s.append(self.floor(self.block))
            began = time.perf_counter()
            yield from itertools.islice(endless, self.block)
            synchronize(self.device)
            self.engine_s.append(time.perf_counter() - began)


def run_engine(job: Job, stage: int, floor: Callable[[int], float], pairs: int, steps: int) -> Interleaved:
    """Train one stage of a job in blocks, and return the times of the floor's blocks and its own.

    Args:
        job: as a run makes it; its networks and method are copied.
        stage: which of the method's stages, from 0.
        floor: see ``Interleaved``.
        pairs, steps: how many blocks are counted, and how long they are.
    """
    student, method, peers = copy.deepcopy((job.student, job.method, list(job.peers)))
    if method is not None:
        only = dataclasses.replace(method.stages()[stage], epochs=None)
        method.stages = lambda: [only]  # type: ignore[method-assign]
    blocks = Interleaved(job.train_batches, floor, pairs, steps, job)
    with tempfile.TemporaryDirectory() as folder:
        measured = dataclasses.replace(
            job,
            student=student,
            method=method,
            peers=peers,
            folder=Path(folder),
            train_batches=blocks,
            val_batches=None,
            train=dataclasses.replace(job.train, epochs=1),
            checkpoint=Checkpoint(every_epochs=ENDLESS),
        )
        fit(measured, Reporter(), StopRequest())
    return blocks
