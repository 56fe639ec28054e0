"""Two processes against one: the same global batch, one backward, gloo over the loopback."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import pickle
import sys
import tempfile
import warnings
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kdtool.testing.bench import Bench, Rig, total

WORLD = 2
TIMEOUT_S = 300
IDLE_S = 30
"""Workers without work end after this many seconds: importing torch takes long, keeping it takes memory."""

Apart = dict[str, float]


class WorkerError(RuntimeError):
    """A worker process failed; the message is its own."""


def compare(bench: Bench, pair: tuple[str, str], precision: str) -> Apart:
    """Return how far two processes are from one, relative to the size, for each stage's loss, gradients and state.

    Args:
        bench: the method; its class has to be importable by another process.
        pair: kinds of student and teacher.
        precision: as ``train.precision``.

    Raises:
        WorkerError: a process failed, or did not finish in time.
    """
    return _WORKERS.call(sys.path, pickle.dumps(bench), pair, precision)


# --- this side --------------------------------------------------------------------------------------------------


class _Workers:
    """Two processes that wait for work, since starting them costs more than the work itself."""

    def __init__(self) -> None:
        self.running: list[tuple[BaseProcess, Connection]] = []

    def call(self, *job: Any) -> Apart:
        fresh = not self.running
        try:
            return self._ask(job)
        except (EOFError, OSError):
            self.close()
            if fresh:
                raise WorkerError(
                    "a worker process ended without an answer; what it wrote to stderr says why"
                ) from None
            return self._ask(job)  # they had been idle and left

    def _ask(self, job: tuple[Any, ...]) -> Apart:
        if not self.running:
            self.running = [_start() for _ in range(WORLD)]
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            for rank, (_, line) in enumerate(self.running):
                line.send((rank, (Path(folder) / "rendezvous").as_uri(), *job))
            answers = [self._answer(line) for _, line in self.running]
        failed = [str(answer) for answer in answers if not isinstance(answer, dict)]
        if failed:
            self.close()
            raise WorkerError(failed[0])
        return {where: max(answer[where] for answer in answers) for where in answers[0]}

    def _answer(self, line: Connection) -> Any:
        if not line.poll(TIMEOUT_S):
            self.close()
            raise WorkerError(f"the processes did not finish within {TIMEOUT_S} s; does one wait for the other?")
        return line.recv()

    def close(self) -> None:
        for process, line in self.running:
            line.close()
            process.terminate()
            process.join()
        self.running = []


def _start() -> tuple[BaseProcess, Connection]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there,), daemon=True)
    process.start()
    there.close()
    return process, here


_WORKERS = _Workers()
atexit.register(_WORKERS.close)


# --- the other side ---------------------------------------------------------------------------------------------


def _serve(line: Connection) -> None:
    torch.set_num_threads(1)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    while line.poll(IDLE_S):
        try:
            rank, rendezvous, path, pickled, pair, precision = line.recv()
        except EOFError:
            return
        sys.path[:] = path
        try:
            answer: Any = _compare(pickle.loads(pickled), pair, precision, rank, rendezvous)
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        line.send(answer)


def _compare(bench: Bench, pair: tuple[str, str], precision: str, rank: int, rendezvous: str) -> Apart:
    alone, together = (bench.rig(*pair, precision=precision) for _ in range(2))
    stages = list(zip(alone.stages, together.stages, strict=True))
    apart: Apart = {}
    for number, (one, other) in enumerate(stages):
        # Frozen before the processes meet: each does the same.
        for rig, stage in ((alone, one), (together, other)):
            rig.enter(stage)
            rig.step.eval()  # frozen batch-norm statistics, no dropout
        want = _backward(alone, alone.step, 0, 1)
        dist.init_process_group(
            "gloo", f"{rendezvous}{number}", timedelta(seconds=TIMEOUT_S / 2), world_size=WORLD, rank=rank
        )
        try:
            got = _backward(together, _wrapped(together.step), rank, WORLD)
        finally:
            dist.destroy_process_group()
        apart |= {f"stage {one.name}, {what}": _relative(want[what], got[what]) for what in want}
        together.step.load_state_dict(alone.step.state_dict())
    return apart


def _wrapped(step: nn.Module) -> nn.Module:
    """Return the step averaging its gradients over processes. Each keeps its own buffers, so that a drift shows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer torch renames the argument
        return DistributedDataParallel(step, broadcast_buffers=False)


def _backward(rig: Rig, step: Any, rank: int, world: int) -> dict[str, dict[str, Tensor]]:
    terms, batch = rig.run(rig.batches[0].split(world)[rank], step=step)
    total(terms).backward()
    found = {name: term.detach().clone() for name, term in terms.items()}
    if world > 1:
        for term in found.values():
            dist.all_reduce(term)
            term /= world
    gradients = rig.gradients()
    with torch.no_grad():
        rig.method.after_step(batch)
    return {"loss": found, "gradients": gradients, "state": dict(rig.method.named_buffers())}


def _relative(want: dict[str, Tensor], got: dict[str, Tensor]) -> float:
    """Return the distance of two sets of tensors over the size of the first; infinity where their names differ."""
    if want.keys() != got.keys():
        return float("inf")
    pairs = [(want[name].double(), got[name].double()) for name in want]
    size = sum(float(a.square().sum()) for a, _ in pairs) ** 0.5
    apart = sum(float((a - b).square().sum()) for a, b in pairs) ** 0.5
    return float(apart / size if size else apart)
