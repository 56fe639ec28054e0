"""Real ``kdtool`` processes at the cost of a fork: a server imports torch once and forks each command.

The server itself computes nothing, so that a fork inherits no thread. What is forked leads a session of its own, and is
really killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class Server:
    """Forks commands; one at a time is waited for."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.started: set[int] = set()

    def _start(self) -> subprocess.Popen[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        return subprocess.Popen(
            [sys.executable, "-m", "tests.forking"],
            cwd=Path(__file__).resolve().parents[1],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **request: Any) -> Any:
        self.process = self.process or self._start()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def ready(self) -> None:
        """Return once everything is imported, so that a run's own time can be measured."""
        self.ask(ping=True)

    def start(self, home: Path, *arguments: object, **environment: str) -> int:
        """Start a command and return its process number; what it says is appended to ``home.log``."""
        words = [str(argument) for argument in arguments]
        pid = int(self.ask(run=words, environment={"KDTOOL_HOME": str(home), **environment}))
        self.started.add(pid)
        return pid

    def left(self) -> list[str]:
        """Return the processes that what was started here has left."""
        return [path.parent.name for path in Path("/proc").glob("[0-9]*/stat") if self._began(path)]

    def _began(self, stat: Path) -> bool:
        with contextlib.suppress(OSError):
            return int(stat.read_text().rpartition(")")[2].split()[3]) in self.started  # its session
        return False

    def wait(self, pid: int) -> int:
        """Return a command's exit code, once it has ended; -9 where it was killed."""
        return int(self.ask(wait=pid))

    def run(self, home: Path, *arguments: object, kill: float | Callable[[], bool] | None = None) -> int:
        """Run a command; SIGKILL it after some seconds, or when something holds. Return its exit code."""
        pid = self.start(home, *arguments)
        if isinstance(kill, float):
            time.sleep(kill)
        elif kill is not None:
            while not kill() and not ended(pid):
                time.sleep(0.0005)
        if kill is not None:
            os.killpg(pid, signal.SIGKILL)  # the zombie of one that ended before keeps its number
        return self.wait(pid)

    def close(self) -> None:
        if self.process is None:
            return
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def ended(pid: int) -> bool:
    """Tell whether a process that nobody has waited for yet has ended."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def _serve() -> None:
    import pkgutil
    from importlib import import_module

    import sklearn.metrics  # noqa: F401
    import timm  # noqa: F401
    import torch

    import kdtool
    from kdtool import registry
    from kdtool.cli import cli

    for module in pkgutil.walk_packages(kdtool.__path__, "kdtool."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError):  # what needs an extra
                import_module(module.name)

    torch.set_num_threads(1)
    for entry in registry.entries():
        entry.load()
    for line in sys.stdin:
        request = json.loads(line)
        answer: int | None
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        elif "ping" in request:
            answer = None
        else:
            answer = os.fork()
            if answer == 0:
                _become(cli, request["run"], request["environment"])
            while os.getpgid(answer) != answer:  # killing its group must spare the server
                time.sleep(0.001)
        print(json.dumps(answer), flush=True)


def _become(cli: Any, words: list[str], environment: Mapping[str, str]) -> None:
    os.setsid()
    os.environ.update(environment)
    log = os.open(environment["KDTOOL_HOME"] + ".log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    null = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, null), (1, log), (2, log)):
        os.dup2(source, target)
    code = 1
    try:
        cli.main(words, prog_name="kdtool")
    except SystemExit as exited:
        code = int(exited.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
