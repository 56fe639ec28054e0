"""Runs on a few dozen sentences, of networks that train in seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kdtool.tasks.text.specimens import WORDS
from tests.running import Done, call

CLASSES = list(WORDS)
SMALL = ["--task", "text", "--device", "cpu", "--batch-size", "16", "data.vocab_size=200", "data.max_length=16"]
QUICK = ["--epochs", "2", "--lr", "0.01", "teacher.check=off", "teacher.train.epochs=2", "teacher.train.batch_size=16"]


def sentences(path: Path, count: int = 90, classes: list[str] | None = None, first: str = "") -> Path:
    """Write a .tsv of sentences whose words tell their class; ``first`` stands before each."""
    names = classes or CLASSES
    lines = ["text\tlabel"]
    for row in range(count):
        name = names[row % len(names)]
        words = [WORDS[name][(row * step + step) % 8] for step in (1, 3, 5, 7)]
        lines.append(f"{first}{' '.join(words)} {row}\t{name}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def pair(data: Path, teacher: str = "transformer-tiny", student: str = "bilstm") -> list[object]:
    """Return what every command that takes a recipe takes for a tiny pair."""
    return [*SMALL, "--teacher", teacher, "--student", student, "--data", data]


def distil(folder: Path, data: Path, *more: object, teacher: str = "transformer-tiny", student: str = "bilstm") -> Done:
    """Run into ``folder``, and assert that it succeeds."""
    done = call("run", *pair(data, teacher, student), *QUICK, "--out", folder, *more, folder=folder)
    assert done.code == 0, done.err
    return done


def evaluated(*arguments: object) -> dict[str, Any]:
    """Return what ``kdtool eval --json`` says."""
    done = call("eval", *arguments, "--json")
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found
