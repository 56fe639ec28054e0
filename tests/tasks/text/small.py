"""A tiny pair on sixty sentences, for commands that look at runs."""

from __future__ import annotations

from pathlib import Path

from kdtool.tasks.text import specimens
from tests.running import Done, call


def given(folder: Path) -> list[str]:
    """Write the sentences, and return the overrides that open them."""
    folder.mkdir(parents=True, exist_ok=True)
    return [f"{key}={value}" for key, value in specimens.write(folder, 0).items()]


def pair(folder: Path, student: str = "bilstm", *more: str) -> list[str]:
    """Return what ``kdtool run`` and its like take for a tiny pair; its data lie in the folder."""
    models = ["--task", "text", "--teacher", "transformer-tiny", "--student", student]
    return [*models, "--batch-size", "16", "--device", "cpu", *given(folder), *more]


def distil(folder: Path, student: str = "bilstm", *more: str) -> Done:
    """Run a tiny pair of one epoch into ``folder/run``, and assert that it succeeds."""
    short = ["--epochs", "1", "teacher.train.epochs=1", "teacher.check=off"]
    run = folder / "run"
    done = call("run", *pair(folder, student, *short, *more), "--out", run, folder=run)
    assert done.code == 0, done.err
    return done
