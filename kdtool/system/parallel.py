"""``--nproc``: the same command in several processes on this machine, that live and die together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

from kdtool.errors import InputError
from kdtool.system.children import Child, Lifeline, ending, shared_threads, start

SECONDARY_S = 3.0
"""How long a process that lost the others keeps silent: whoever failed first is to be heard first."""

GRACE_S, REFUSED_S, ENDING_S = 0.5, 10.0, 30.0
"""How long the first process may take to fail by itself after another did, to refuse what another refused, which is
the same for all, and to end after a signal."""

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


class _Processes:
    def __init__(self, count: int, arguments: Sequence[str]):
        self.signal: int | None = None
        self.lifeline = Lifeline()
        common = _environment(count)
        self.workers = [self._start(rank, common, arguments) for rank in range(count)]

    def _start(self, rank: int, common: Mapping[str, str], arguments: Sequence[str]) -> Child:
        return start(
            ["-m", "kdtool", *arguments],
            self.lifeline,
            environment={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL if rank else None,
            keep_words=bool(rank),  # the first one speaks for itself
        )

    def pass_on(self, number: int, _: FrameType | None) -> None:
        self.signal = number
        for worker in self.workers:
            worker.signal(number)

    def wait(self) -> int:
        """Return 0 once all have ended well, else the exit code of the first that did not."""
        while True:
            codes = [worker.process.poll() for worker in self.workers]
            if any(codes):
                # Where all fail of one cause, or stop as told, the first process says it best.
                refused = all(code in (None, 0, InputError.exit_code) for code in codes)
                self._let_end(ENDING_S if self.signal is not None else REFUSED_S if refused else GRACE_S)
                return self._told(next(rank for rank, worker in enumerate(self.workers) if worker.process.poll()))
            if all(code == 0 for code in codes):
                return 0
            time.sleep(_POLL_S)

    def _let_end(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.workers[0].runs():
            time.sleep(_POLL_S)

    def _told(self, rank: int) -> int:
        worker = self.workers[rank]
        code: Any = worker.process.returncode
        if rank and (words := worker.words()):
            print(f"process {rank}: {words}", file=sys.stderr)
        if code < 0:
            print(f"error: process {rank} of {len(self.workers)} was ended by {ending(code)}.", file=sys.stderr)
            return 3 if self.signal is None else 128 + self.signal
        return int(code)

    def end(self) -> None:
        for worker in self.workers:
            worker.end()
        self.lifeline.close()
        if sys.stderr.isatty():
            sys.stderr.write("\x1b[?25h")  # a live view that was ended had hidden the cursor


def _environment(count: int) -> dict[str, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": shared_threads(count),
    }
