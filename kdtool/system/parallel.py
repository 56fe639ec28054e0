"""``--nproc``: the same command in several processes on this machine, that live and die together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import IO, Any

LIFELINE = "KDTOOL_LIFELINE"
"""Names the pipe by which a process learns that the one which started it is gone."""

SECONDARY_S = 3.0
"""How long a process that lost the others keeps silent: whoever failed first is to be heard first."""

GRACE_S, ENDING_S = 0.5, 30.0
"""How long the first process may take to fail by itself after another did, and to end after a signal."""

_POLL_S = 0.05


def launched() -> bool:
    """Return whether this process is one of several that train together, by torchrun's variables."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first() -> bool:
    """Return whether this process is the one of them that speaks."""
    return not launched() or os.environ.get("RANK", "0") == "0"


def launch(count: int, arguments: Sequence[str]) -> int:
    """Run ``kdtool ARGUMENTS`` in ``count`` processes and return the exit code of the whole.

    The first one that fails ends the others, and what it said is shown. SIGTERM and Ctrl-C are passed on once each.
    """
    processes = _Processes(count, arguments)
    before = {number: signal.signal(number, processes.pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return processes.wait()
    finally:
        processes.end()
        for number, handler in before.items():
            signal.signal(number, handler)


def die_with_parent() -> None:
    """End this process when the one that launched it ends, however that came about."""
    descriptor = os.environ.get(LIFELINE)
    if descriptor is None:
        return

    def watch() -> None:
        os.read(int(descriptor), 1)  # nothing is ever written: it returns when the other end is closed
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@dataclass
class _Worker:
    rank: int
    process: subprocess.Popen[bytes]
    said: IO[bytes] | None  # what all but the first say on standard error

    def words(self) -> str:
        if self.said is None:
            return ""
        self.said.seek(0)
        return self.said.read().decode(errors="replace").strip()


class _Processes:
    def __init__(self, count: int, arguments: Sequence[str]):
        self.signal: int | None = None
        ours, self.lifeline = os.pipe()
        common = _environment(count) | {LIFELINE: str(ours)}
        self.workers = [self._start(rank, common, arguments, ours) for rank in range(count)]
        os.close(ours)

    @staticmethod
    def _start(rank: int, common: Mapping[str, str], arguments: Sequence[str], lifeline: int) -> _Worker:
        said = tempfile.TemporaryFile() if rank else None  # noqa: SIM115 - closed with the worker
        process = subprocess.Popen(
            [sys.executable, "-m", "kdtool", *arguments],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if rank else None,
            stderr=said,
            pass_fds=(lifeline,),
            start_new_session=True,  # a terminal's Ctrl-C reaches them through us, once
        )
        return _Worker(rank, process, said)

    def pass_on(self, number: int, _: FrameType | None) -> None:
        self.signal = number
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.send_signal(number)

    def wait(self) -> int:
        """Return 0 once all have ended well, else the exit code of the first that did not."""
        while True:
            codes = [worker.process.poll() for worker in self.workers]
            if any(codes):
                # Where all fail of one cause, or stop as told, the first process says it best.
                self._let_end(ENDING_S if self.signal is not None else GRACE_S)
                return self._told(next(worker for worker in self.workers if worker.process.poll()))
            if all(code == 0 for code in codes):
                return 0
            time.sleep(_POLL_S)

    def _let_end(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.workers[0].process.poll() is None:
            time.sleep(_POLL_S)

    def _told(self, worker: _Worker) -> int:
        code: Any = worker.process.returncode
        if worker.rank and (words := worker.words()):
            print(f"process {worker.rank}: {words}", file=sys.stderr)
        if code < 0:
            name = signal.Signals(-code).name
            print(f"error: process {worker.rank} of {len(self.workers)} was ended by {name}.", file=sys.stderr)
            return 3 if self.signal is None else 128 + self.signal
        return int(code)

    def end(self) -> None:
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.kill()
            worker.process.wait()
            if worker.said is not None:
                worker.said.close()
        os.close(self.lifeline)
        if sys.stderr.isatty():
            sys.stderr.write("\x1b[?25h")  # a live view that was ended had hidden the cursor


def _environment(count: int) -> dict[str, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Processes that each use all cores spin against one another.
    threads = str(max(1, (os.cpu_count() or 1) // count))
    return {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads),
    }
