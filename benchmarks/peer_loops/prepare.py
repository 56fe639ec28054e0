"""What all loops of a kind start from: data, ready batches as kdtool makes them, networks, the teacher's outputs."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pair
import torch
import words
from turns import given

from kdtool.cache.open import open_or_build
from kdtool.engine.signals import StopRequest
from kdtool.events import Reporter
from kdtool.recipe import load as recipes
from kdtool.runs.execution import Execution
from kdtool.runs.setting import Setting, build_setting

READY = 4
"""Batches that the peers go through."""

SIZE = 64
"""Images in a batch."""


def recipe_of(about: dict[str, Any]) -> Any:
    """Return kdtool's recipe of the pair."""
    work, common = Path(about["work"]), {
        "teacher.check": "off", "data.val_fraction": 0.0, "data.views": 1, "train.epochs": 1,
        "train.device": about["device"], "train.precision": about["precision"],
    }  # fmt: skip
    if about["kind"] == "images":
        found = {
            "data.name": about.get("data") or str(work / "images"), "train.batch_size": SIZE,
            "schedule.milestones": "[]",
        }  # fmt: skip
        overrides = [f"{key}={value}" for key, value in {**common, **found}.items()]
        return recipes.load(f"cifar100/{pair.STUDENT}_from_{pair.TEACHER}.yaml", overrides)
    return recipes.from_dict({
        **common, "task": "language", "method": "gkd", "gkd.beta": words.BETA, "gkd.temperature": words.TEMPERATURE,
        "teacher.model": str(work / "teacher"), "student.model": "llama-tiny", "student.model_args": words.STUDENT,
        "data.name": str(work / "texts"), "data.max_length": words.LENGTH, "train.batch_size": words.BATCH,
        "optim.name": "adamw", "optim.lr": words.RATE, "optim.weight_decay": 0.01, "cache.top_k": 64,
    })  # fmt: skip


def write_images(folder: Path, each: int = 11) -> None:
    """Write random images of CIFAR-100's size and number of classes: what they show costs nothing."""
    from PIL import Image

    draw = np.random.default_rng(0)
    for split, count in (("train", each), ("test", 1)):
        for label in range(pair.CLASSES):
            place = folder / split / f"{label:02}"
            place.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")


def batches_of(setting: Setting) -> list[Any]:
    """Return the first training batches."""
    every = itertools.chain.from_iterable(setting.train_batches.epoch(number) for number in itertools.count())
    return list(itertools.islice(every, READY))


def main() -> None:
    """Write all of it."""
    about = given()
    work = Path(about["work"])
    if about["kind"] == "images":
        if not about.get("data"):
            write_images(work / "images")
    else:
        words.write(work)
    for precision in ("bf16", "fp32"):
        setting = build_setting(recipe_of({**about, "precision": precision}))
        open_or_build(Execution(setting, Reporter()).cached_teachers(StopRequest()), "build", Reporter())
    batches = batches_of(setting)
    if about["kind"] == "images":
        torch.save([(each.inputs.contiguous().cpu(), each.labels.cpu()) for each in batches], work / "images.pt")
        return
    if any((each.inputs["lengths"] != words.LENGTH).any() for each in batches):
        raise SystemExit(f"samples are not all of {words.LENGTH} tokens")
    torch.save([each.inputs["ids"].cpu() for each in batches], work / "words.pt")
    built = setting.student
    setting.task.save(work / "student", built, built.module.state_dict(), setting.data, setting.recipe)


if __name__ == "__main__":
    main()
