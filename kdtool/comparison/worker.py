"""A process that does a comparison's jobs one after another: ``python -m kdtool.comparison.worker``.

A job is a line of JSON on standard input; its outcome, {"error": text or null}, one on standard output.
Libraries are imported once. On Linux each job then gets a process of its own by fork, which is what its memory is
measured by and what may die without the others; elsewhere, where forking is not safe, a worker does one job and ends.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
import warnings
from typing import Any

from kdtool.comparison.work import Job, perform
from kdtool.errors import Interrupted
from kdtool.system.children import die_with_parent, ending


def main() -> None:
    """Do jobs until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what plugins print as they are imported is no answer
    import kdtool.runs.api  # noqa: F401 - once, for all jobs

    warnings.filterwarnings("ignore", category=DeprecationWarning)  # forking: nothing has been computed yet
    while line := sys.stdin.readline():
        job = Job(**json.loads(line))
        outcome = _forked(job) if sys.platform == "linux" else _here(job)
        print(json.dumps(outcome), file=answers, flush=True)
        if sys.platform != "linux":
            return


def _forked(job: Job) -> dict[str, Any]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        code = 1
        try:
            os.write(writing, json.dumps(_here(job)).encode())
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as stream:
        said = stream.read()
    _, status = os.waitpid(child, 0)
    if said:
        outcome: dict[str, Any] = json.loads(said)
        return outcome
    code = os.waitstatus_to_exitcode(status)
    hint = " It may have run out of memory: use fewer --jobs." if -code == signal.SIGKILL else ""
    return {"error": f"the run's process was ended by {ending(code)}.{hint}"}


def _here(job: Job) -> dict[str, Any]:
    """Do a job in this process, its words going to the run's log."""
    die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        return {"error": perform(job)}
    except Interrupted as stop:
        return {"error": str(stop)}
    finally:
        sys.stdout.flush()


if __name__ == "__main__":
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)  # they are for the job
    main()
