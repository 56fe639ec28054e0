"""Processes that take turns: each waits until it is let go, for one block of steps."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Worker:
    """A loop in a process of its own, which waits for its turns.

    Args:
        python: the interpreter.
        script: which it runs; see ``Turns`` of ``peer_loops/turns.py`` for its side.
        about: what the script is told.
        said: the file for what it prints.
    """

    def __init__(self, python: str, script: Path, about: Mapping[str, Any], said: Path):
        command = [python, str(script), json.dumps(about)]
        self.said = said
        with said.open("w") as printed:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=printed, text=True,
                env=surroundings(about),
            )  # fmt: skip
        self.last: dict[str, Any] = {}

    def waits(self) -> bool:
        """Return when it waits for its turn; False: it has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.last = json.loads(line) if line else {}
        return bool(line)

    def block(self) -> float:
        """Let it take a block of steps; return samples a second.

        Raises:
            SystemExit: it has ended.
        """
        assert self.process.stdin is not None
        began = time.perf_counter()
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        if not self.waits():
            raise SystemExit(f"a loop ended by itself: {self.words()}")
        return float(self.last["samples"]) / (time.perf_counter() - began)

    def words(self) -> str:
        """Return the last line that it said."""
        self.process.wait()
        lines = self.said.read_text(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else f"exit code {self.process.returncode}"

    def end(self) -> None:
        """Let it end, or make it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()


def surroundings(about: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment of a loop: kdtool as it is imported here, nothing fetched, and no card but where asked."""
    import kdtool
    import kdtool_models

    # Of a checkout; where it is installed, a loop's interpreter has its own, and would be given the other's libraries.
    roots = {Path(str(module.__file__)).resolve().parents[1] for module in (kdtool, kdtool_models)}
    checkouts = sorted(str(root) for root in roots if root.name != "site-packages")
    path = os.pathsep.join([*checkouts, *filter(None, [os.environ.get("PYTHONPATH")])])
    found = {**os.environ, "PYTHONPATH": path, "KDTOOL_HOME": str(Path(about["work"]) / "home"), "HF_HUB_OFFLINE": "1"}
    return found if about["device"].startswith("cuda") else {**found, "CUDA_VISIBLE_DEVICES": ""}
