"""Whole runs in this process, on the digits with timm's own test models, kept down to seconds."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kdtool.cli import cli

TEACHER, STUDENT = "test_resnet", "test_efficientnet"
"""timm's own test models: they train on the digits in seconds."""

PAIR = ["--teacher", TEACHER, "--student", STUDENT]
TWINS = ["--teacher", TEACHER, "--student", TEACHER]

SMALL = ["--device", "cpu", "--epochs", "1", "--batch-size", "32", "--lr", "0.003", "data.labels_per_class=16"]
SMALL += [f"teacher.train.{each}" for each in ("epochs=2", "optim.lr=0.003", "batch_size=32")]
"""A teacher that learns something in seconds (once: it is kept), and a student on 160 images."""

OVERRIDES = [each for each in SMALL if "=" in each]
"""Those of ``SMALL`` that every command takes."""

CHEAP = ["train.device=cpu", "data.labels_per_class=8", "data.image_size=16"]
CHEAP += ["teacher.check=off", "teacher.train.batch_size=256"]
"""Where nobody asks what is learnt: networks and 80 images as small as they come."""


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "result.json").read_text())
        return found

    def file(self, name: str = "student/model.safetensors") -> bytes:
        return (self.folder / name).read_bytes()

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]


def call(*arguments: object, folder: Path | None = None) -> Done:
    """Run ``kdtool`` with the given arguments; ``folder`` is where its run is expected."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main([str(argument) for argument in arguments], prog_name="kdtool")
        except SystemExit as exited:
            code = int(exited.code or 0)
    return Done(code, out.getvalue(), err.getvalue(), folder or Path())


def distil(folder: Path, *arguments: object) -> Done:
    """Run ``kdtool run`` into ``folder`` with small models, and assert that it succeeds."""
    done = start(folder, *arguments)
    assert done.code == 0, done.err
    return done


def start(folder: Path, *arguments: object) -> Done:
    """Run ``kdtool run`` into ``folder``, with small models where ``arguments`` name none."""
    models = zip(PAIR[::2], PAIR[1::2], strict=True)
    named = [each for flag, model in models if flag not in arguments for each in (flag, model)]
    return call("run", *SMALL, *named, "--out", folder, *arguments, folder=folder)


def write_images(folder: Path, classes: Mapping[str, int], size: tuple[int, int] = (40, 28), seed: int = 0) -> Path:
    """Write colour pictures of differing sizes; a class is a hue and a bright side, so a network can tell them."""
    draw = np.random.Generator(np.random.Philox(seed))
    for number, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            width, height = (int(side + draw.integers(0, 9)) for side in size)
            pixels = draw.integers(0, 90, (height, width, 3))
            pixels[:, : width // 2] += 60 * (number % 2)
            pixels[..., number % 3] += 100
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.{'png' if i % 2 else 'jpg'}")
    return folder
