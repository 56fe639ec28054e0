"""Runs that are killed again and again and gone on with, in forks of a server."""

from __future__ import annotations

import random
import signal
from collections.abc import Sequence
from pathlib import Path

from tests.forking import Server


def student(folder: Path) -> bytes:
    """Return the weights that a run ships."""
    return (folder / "student" / "model.safetensors").read_bytes()


def to_the_end(
    server: Server, home: Path, given: Sequence[object], folder: Path, took: float, most: int, draw: random.Random
) -> int:
    """Run to the end, killed so many times at most; return how often it was.

    Args:
        server: forks each attempt.
        home: for ``KDTOOL_HOME``.
        given: the command that begins the run, but for its folder.
        folder: the run's; where its recipe is written it is resumed.
        took: seconds of a whole run, within which the kills are drawn.
        most: kills.
        draw: draws their moments.
    """
    killed, code = 0, -signal.SIGKILL
    while code != 0:
        words = ["run", "--resume", folder] if (folder / "recipe.yaml").is_file() else [*given, "--out", folder]
        code = server.run(home, *words, kill=draw.uniform(0.3, 0.9) * took if killed < most else None)
        assert code in (0, -signal.SIGKILL)
        killed += code != 0
    return killed
