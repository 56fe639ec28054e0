"""Workers on this machine: processes that do a comparison's jobs side by side, and end with this one."""

from __future__ import annotations

import contextlib
import json
import selectors
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Protocol

from kdtool.comparison.work import Job
from kdtool.system.children import Child, Lifeline, start


class Executor(Protocol):
    """Whatever does jobs."""

    def free(self) -> bool:
        """Tell whether another job can be given now."""
        ...

    def give(self, job: Job) -> None:
        """Begin a job."""
        ...

    def wait(self, seconds: float) -> list[tuple[Job, str | None]]:
        """Return the jobs that have ended, each with why it failed or None; wait so long for one."""
        ...

    def stop(self, number: int) -> None:
        """Pass a signal on to the jobs, once."""
        ...

    def close(self) -> None:
        """End whatever still runs."""
        ...


class _Worker:
    """One process, started with its first job."""

    def __init__(self, lifeline: Lifeline, environment: dict[str, str]):
        self.lifeline, self.environment = lifeline, environment
        self.child: Child | None = None
        self.job: Job | None = None

    def give(self, job: Job) -> None:
        if self.child is None or not self.child.runs():
            self.close()
            with job.log.open("a") as said:
                self.child = start(
                    ["-m", "kdtool.comparison.worker"], self.lifeline, environment=self.environment,
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, said=said, text=True,
                )  # fmt: skip
        self.job = job
        with contextlib.suppress(BrokenPipeError):  # it died meanwhile: its silence will tell
            stdin = self.child.process.stdin
            assert stdin is not None
            stdin.write(job.to_json() + "\n")
            stdin.flush()

    @property
    def answers(self) -> IO[str] | None:
        """Where it answers, while it works."""
        return self.child.process.stdout if self.child is not None and self.job is not None else None

    def outcome(self) -> str | None:
        """Return why the job failed, or None; to be called once there is something to read."""
        assert self.child is not None
        assert self.child.process.stdout is not None
        line = self.child.process.stdout.readline()
        self.job = None
        if not line:
            self.child.process.wait()
            return f"the worker's process ended with exit code {self.child.process.returncode}."
        error: str | None = json.loads(line)["error"]
        return error

    def signal(self, number: int) -> None:
        if self.child is not None:
            self.child.signal(number, all_of_it=True)  # each job is a process of its own below it

    def close(self) -> None:
        if self.child is not None:
            self.child.end()
        self.child = None


class Workers:
    """An ``Executor`` of processes.

    Args:
        count: jobs at once.
        threads: of each.
        gpus: what ``CUDA_VISIBLE_DEVICES`` may name; workers take turns. None: they all see the same.
    """

    def __init__(self, count: int, threads: int, gpus: Sequence[str] = ()):
        self.lifeline = Lifeline()
        self.workers = []
        for number in range(count):
            environment = {"OMP_NUM_THREADS": str(threads)}
            if len(gpus) > 1:
                environment["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
            self.workers.append(_Worker(self.lifeline, environment))

    def free(self) -> bool:
        return any(worker.job is None for worker in self.workers)

    def give(self, job: Job) -> None:
        Path(job.folder).parent.mkdir(parents=True, exist_ok=True)
        next(worker for worker in self.workers if worker.job is None).give(job)

    def wait(self, seconds: float) -> list[tuple[Job, str | None]]:
        ended: list[tuple[Job, str | None]] = []
        with selectors.DefaultSelector() as selector:
            for worker in self.workers:
                if worker.answers is not None:
                    selector.register(worker.answers, selectors.EVENT_READ, worker)
            for key, _ in selector.select(seconds):
                job: Job = key.data.job
                ended.append((job, key.data.outcome()))
        return ended

    def stop(self, number: int) -> None:
        for worker in self.workers:
            worker.signal(number)

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        self.lifeline.close()
