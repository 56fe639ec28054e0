"""Several processes that each compute a share of a cache's shards."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdtool.errors import InputError, RunError
from kdtool.recipe import load as recipes
from kdtool.recipe.schema import Recipe
from kdtool.system.children import Child, Lifeline, ending, shared_threads, start

_POLL_S = 0.05


@dataclass(frozen=True)
class Share:
    """What a worker process is told, as JSON on its standard input.

    Attributes:
        recipe: of the run, as plain data.
        teacher: which of its teachers, from 0.
        key: digest of what decides the outputs; a worker that finds another one gives up.
        folder: the cache's.
        share: (i, n): the i-th of n parts of the missing shards.
        places: the missing shards, [view, block, names of the parts that lack there].
    """

    recipe: dict[str, object]
    teacher: int
    key: str
    folder: str
    share: tuple[int, int]
    places: list[tuple[int, int, list[str]]]


def in_processes(
    recipe: Recipe,
    teacher: int,
    key: str,
    folder: Path,
    places: list[tuple[int, int, list[str]]],
    jobs: int,
    check: Callable[[], None],
) -> None:
    """Compute shards in ``jobs`` processes, which end with this one.

    Raises:
        InputError, RunError: one of them failed; with its words.
    """
    lifeline, workers = Lifeline(), list[Child]()
    try:
        for number in range(jobs):
            share = Share(recipes.to_dict(recipe), teacher, key, str(folder), (number, jobs), places)
            workers.append(_start(share, jobs, lifeline))
        while any(worker.runs() for worker in workers):
            check()
            if any(worker.process.poll() for worker in workers):
                break
            time.sleep(_POLL_S)
        _raise_first(workers)
    finally:
        for worker in workers:
            worker.end()
        lifeline.close()


def _start(share: Share, jobs: int, lifeline: Lifeline) -> Child:
    environment = {"OMP_NUM_THREADS": shared_threads(jobs)}
    worker = start(
        ["-m", "kdtool.cache.worker"], lifeline, environment=environment, stdin=subprocess.PIPE, keep_words=True
    )
    assert worker.process.stdin is not None
    # It may die meanwhile: its exit code will tell.
    with contextlib.suppress(BrokenPipeError), worker.process.stdin as stdin:
        stdin.write(json.dumps(vars(share)).encode())
    return worker


def _raise_first(workers: Sequence[Child]) -> None:
    for number, worker in enumerate(workers):
        code = worker.process.poll()
        if not code:
            continue
        words = worker.words()
        if code < 0:
            words = f"it was ended by {ending(code)}. It may have run out of memory: use fewer --jobs."
        kind = InputError if code == InputError.exit_code else RunError
        raise kind(f"process {number} of {len(workers)} that builds the teacher cache failed: {words}")
