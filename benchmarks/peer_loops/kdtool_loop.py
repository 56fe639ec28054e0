"""kdtool's own engine on its own data path: views, meters and checks are in it, other than in its peers' loops."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prepare import recipe_of
from turns import Turns, given

from kdtool.cache.open import open_or_build
from kdtool.engine.job import Batches
from kdtool.engine.signals import StopRequest
from kdtool.events import Reporter
from kdtool.measure.bench.engine import run_engine
from kdtool.runs.execution import Execution
from kdtool.runs.setting import build_setting


class Counted:
    """A run's batches, counted as they go: in images, or in tokens that are learnt."""

    def __init__(self, batches: Batches, turns: Turns):
        self.batches, self.turns, self.steps = batches, turns, batches.steps

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        for batch in self.batches.epoch(epoch, start):
            self.turns.samples += len(batch.index)
            yield batch


def main() -> None:
    """Train in blocks until nobody asks for one."""
    about = given()
    turns = Turns(about["steps"], about["device"])
    setting = build_setting(recipe_of(about))
    execution = Execution(setting, Reporter())
    stop = StopRequest()
    replay = open_or_build(execution.cached_teachers(stop), "build", Reporter()) if about.get("replayed") else None
    job = execution.student_job(Path(), replay)
    job = dataclasses.replace(job, train_batches=Counted(job.train_batches, turns))

    calls = itertools.count()

    def others(_: int) -> float:
        if next(calls):  # at first the engine's bench lets its floor warm up, and here is none
            turns.wait()
        return 0.0

    run_engine(job, 0, others, 1_000_000, turns.steps)


if __name__ == "__main__":
    main()
