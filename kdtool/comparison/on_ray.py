"""A comparison's runs on a Ray cluster; a run whose worker dies is begun again from its checkpoint.

The comparison's folder and ``KDTOOL_HOME`` must be places that all nodes see, and kdtool must be installed on them.
``RAY_ADDRESS`` names the cluster; without it a local one is started, and ended with the comparison.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from kdtool.comparison.work import Job, perform
from kdtool.errors import Interrupted, RunError

RETRIES = 3


class OnRay:
    """An ``Executor`` that gives every job to Ray, which decides when there is room for it.

    Args:
        count: jobs at once on a local cluster.
        threads: of each.

    Raises:
        RunError: the cluster does not answer.
    """

    def __init__(self, count: int, threads: int):
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is sent anywhere
        os.environ.setdefault("RAY_worker_niceness", "0")  # runs are what a local cluster is for, as in workers
        import ray

        self.ray: Any = ray
        self.own = not ray.is_initialized()
        if self.own:
            local = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": count * threads, "include_dashboard": False}
            try:
                ray.init(log_to_driver=False, logging_level="ERROR", **local)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise RunError(f"Ray cannot be reached: {error}") from error
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        # A process a job: memory is measured by it.
        options = {"num_cpus": threads, "num_gpus": gpus, "max_retries": RETRIES, "max_calls": 1}
        self.remote = self.ray.remote(**options)(_perform)
        self.environment = {key: value for key, value in os.environ.items() if key.startswith(("KDTOOL_", "HF_"))}
        self.running: dict[Any, Job] = {}

    def free(self) -> bool:
        return True

    def give(self, job: Job) -> None:
        Path(job.folder).parent.mkdir(parents=True, exist_ok=True)
        self.running[self.remote.remote(job, self.environment, os.getcwd())] = job

    def wait(self, seconds: float) -> list[tuple[Job, str | None]]:
        if not self.running:
            return []
        ended, _ = self.ray.wait(list(self.running), num_returns=1, timeout=seconds)
        return [(self.running.pop(each), self._outcome(each)) for each in ended]

    def _outcome(self, reference: Any) -> str | None:
        try:
            error: str | None = self.ray.get(reference)
            return error
        except Exception as error:  # whatever became of the worker is this run's matter, not the others'
            return f"Ray: {type(error).__name__}: {' '.join(str(error).split())[:500]}"

    def stop(self, number: int) -> None:
        for reference in self.running:
            self.ray.cancel(reference, force=False)

    def close(self) -> None:
        if self.own:
            self.ray.shutdown()


def _perform(job: Job, environment: dict[str, str], cwd: str) -> str | None:
    """Do a job on a node; after the worker's death once more, from the run's checkpoint."""
    os.environ.update(environment)
    if Path(cwd).is_dir():
        os.chdir(cwd)
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("a", buffering=1) as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        try:
            return perform(job)
        except Interrupted as stop:
            return str(stop)
