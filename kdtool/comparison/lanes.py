"""Lanes on this machine: processes that work on a comparison's jobs side by side, and end with this one."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from kdtool.comparison.work import Job
from kdtool.system import parallel


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


class _Lane:
    """One process, started with its first job."""

    def __init__(self, lifeline: int, environment: dict[str, str]):
        self.lifeline, self.environment = lifeline, environment
        self.process: subprocess.Popen[str] | None = None
        self.job: Job | None = None

    def give(self, job: Job) -> None:
        if self.process is None or self.process.poll() is not None:
            self.close()
            with job.log.open("a") as said:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "kdtool.comparison.lane"],
                    env={**os.environ, **self.environment, parallel.LIFELINE: str(self.lifeline)},
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True,
                    pass_fds=(self.lifeline,),
                    start_new_session=True,  # a terminal's Ctrl-C reaches them through us, once
                )  # fmt: skip
        self.job = job
        with contextlib.suppress(BrokenPipeError):  # it died meanwhile: its silence will tell
            assert self.process.stdin is not None
            self.process.stdin.write(job.to_json() + "\n")
            self.process.stdin.flush()

    def outcome(self) -> str | None:
        """Return why the job failed, or None; to be called once there is something to read."""
        assert self.process is not None
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.job = None
        if not line:
            self.process.wait()
            return f"the lane's process ended with exit code {self.process.returncode}."
        error: str | None = json.loads(line)["error"]
        return error

    def signal(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def close(self) -> None:
        if self.process is None:
            return
        self.signal(signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self.process = None


class Lanes:
    """An ``Executor`` of processes.

    Args:
        count: jobs at once.
        threads: of each.
        gpus: what ``CUDA_VISIBLE_DEVICES`` may name; lanes take turns. None: they all see the same.
    """

    def __init__(self, count: int, threads: int, gpus: Sequence[str] = ()):
        self.ours, self.lifeline = os.pipe()
        self.lanes = []
        for number in range(count):
            environment = {"OMP_NUM_THREADS": str(threads)}
            if len(gpus) > 1:
                environment["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
            self.lanes.append(_Lane(self.ours, environment))

    def free(self) -> bool:
        return any(lane.job is None for lane in self.lanes)

    def give(self, job: Job) -> None:
        Path(job.folder).parent.mkdir(parents=True, exist_ok=True)
        next(lane for lane in self.lanes if lane.job is None).give(job)

    def wait(self, seconds: float) -> list[tuple[Job, str | None]]:
        ended: list[tuple[Job, str | None]] = []
        with selectors.DefaultSelector() as selector:
            for lane in self.lanes:
                if lane.job is not None and lane.process is not None and lane.process.stdout is not None:
                    selector.register(lane.process.stdout, selectors.EVENT_READ, lane)
            for key, _ in selector.select(seconds):
                job: Job = key.data.job
                ended.append((job, key.data.outcome()))
        return ended

    def stop(self, number: int) -> None:
        for lane in self.lanes:
            lane.signal(number)

    def close(self) -> None:
        for lane in self.lanes:
            lane.close()
        for descriptor in (self.ours, self.lifeline):
            os.close(descriptor)
