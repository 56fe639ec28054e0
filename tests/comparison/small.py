"""Comparisons of seconds: on the digits, with timm's own test models."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.running import OVERRIDES, STUDENT, TEACHER, Done, call

SETTINGS = ["--teacher", TEACHER, "--students", STUDENT]
SETTINGS += ["--device", "cpu", "train.batch_size=32", "optim.lr=0.003", *OVERRIDES]


def compare(folder: Path, *arguments: object) -> Done:
    """Run ``kdtool compare`` into ``folder``."""
    return call("compare", *SETTINGS, "--out", folder, *arguments, folder=folder)


def values(folder: Path) -> dict[str, Any]:
    """Return what ``comparison.json`` holds."""
    found: dict[str, Any] = json.loads((folder / "comparison.json").read_text())
    return found


def without_costs(folder: Path) -> Any:
    """Return the document without what differs from one time to the next: costs, and the folders' own name."""

    def kept(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: kept(value) for key, value in part.items() if key != "cost"}
        if isinstance(part, list):
            return [kept(each) for each in part]
        return part.replace(str(folder), "") if isinstance(part, str) else part

    return kept(copy.deepcopy(values(folder)))


def students(folder: Path) -> dict[str, bytes]:
    """Return every run's student, as its file's bytes."""
    found = sorted(folder.glob("*/*/seed-*/student/model.safetensors"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


class Process:
    """``kdtool compare`` in a process of its own."""

    def __init__(self, *arguments: object):
        command = [sys.executable, "-m", "kdtool", "compare", *map(str, arguments)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def wait_for(self, pattern: str, folder: Path) -> None:
        """Return once a file matching ``pattern`` is in ``folder``."""
        until = time.monotonic() + 300
        while not any(folder.glob(pattern)):
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < until
            time.sleep(0.02)

    def stop_when(self, pattern: str, folder: Path, number: int = signal.SIGKILL) -> str:
        """Send a signal once a file matching ``pattern`` is in ``folder``; return what was said."""
        self.wait_for(pattern, folder)
        os.kill(self.process.pid, number)
        return self.said()

    def said(self) -> str:
        """Return what was said, once the process has ended."""
        text, _ = self.process.communicate(timeout=600)
        return text

    def descendants(self) -> dict[int, str]:
        """Return the processes that it started, and those that they did, each with its command line (Linux only)."""
        found, parents = {}, {self.process.pid}
        for folder in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
            with contextlib.suppress(OSError):  # it ended meanwhile
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if parent in parents:
                    parents.add(int(folder.name))
                    found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        return found
