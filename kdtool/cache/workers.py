"""Several processes that each compute a share of a cache's shards."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from kdtool.errors import InputError, RunError
from kdtool.recipe import load as recipes
from kdtool.recipe.schema import Recipe
from kdtool.system import parallel

_POLL_S = 0.05


@dataclass(frozen=True)
class Task:
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
    ours, lifeline = os.pipe()
    workers: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []
    try:
        for number in range(jobs):
            task = Task(recipes.to_dict(recipe), teacher, key, str(folder), (number, jobs), places)
            workers.append(_start(task, jobs, ours))
        while any(process.poll() is None for process, _ in workers):
            check()
            if any(process.poll() for process, _ in workers):
                break
            time.sleep(_POLL_S)
        _raise_first(workers)
    finally:
        for process, said in workers:
            if process.poll() is None:
                process.kill()
            process.wait()
            said.close()
        os.close(ours)
        os.close(lifeline)


def _start(task: Task, jobs: int, ours: int) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
    threads = str(max(1, (os.cpu_count() or 1) // jobs))  # processes that each use all cores spin against one another
    process = subprocess.Popen(
        [sys.executable, "-m", "kdtool.cache.worker"],
        env={"OMP_NUM_THREADS": threads, **os.environ, parallel.LIFELINE: str(ours)},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=said,
        pass_fds=(ours,),
        start_new_session=True,  # a terminal's Ctrl-C is for the process that started them
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin as stdin:  # it died meanwhile: its exit code will tell
        stdin.write(json.dumps(vars(task)).encode())
    return process, said


def _raise_first(workers: Sequence[tuple[subprocess.Popen[bytes], IO[bytes]]]) -> None:
    for number, (process, said) in enumerate(workers):
        code = process.poll()
        if not code:
            continue
        said.seek(0)
        words = said.read().decode(errors="replace").strip()
        if code < 0:
            words = f"it was ended by {signal.Signals(-code).name}. It may have run out of memory: use fewer --jobs."
        kind = InputError if code == InputError.exit_code else RunError
        raise kind(f"process {number} of {len(workers)} that builds the teacher cache failed: {words}")
