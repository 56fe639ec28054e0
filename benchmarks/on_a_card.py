"""What a CUDA card does with the runs of CIFAR-100's tables: a trace of a step, and what a whole run would take.

    python benchmarks/on_a_card.py [--data FOLDER] [--epochs 3] [--out FOLDER]

Prints one JSON document: the card; of KD's step from resnet32x4 to resnet8x4 at batch 64 the operations started, the
kernels, and the time of both; and of a run of a few epochs, with the teacher replayed, the seconds an epoch, from which
the 240 epochs of the recipe are extrapolated. Both with steps as they come and with recorded ones (``train.graph``).
Without CIFAR-100 the run is on the digits, and says so.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from kdtool import run
from kdtool.engine.signals import StopRequest
from kdtool.engine.trainer import fit
from kdtool.events import Reporter
from kdtool.recipe import load as recipes
from kdtool.runs.execution import Execution
from kdtool.runs.setting import build_setting

EPOCHS = 240
MODES = ("off", "auto")
"""Of ``train.graph``."""


class _Clock(Reporter):
    """Notes when the student's epochs end, validation and checkpoint in them, and why steps are not recorded."""

    def __init__(self) -> None:
        self.now, self.ends, self.said = "", [0.0], ""

    def phase(self, name: str) -> None:
        self.now, self.ends = name, [time.monotonic()]

    def epoch(self, record: Mapping[str, Any]) -> None:
        self.ends.append(time.monotonic())

    def note(self, text: str) -> None:
        self.said = text if "CUDA graph" in text else self.said

    def seconds(self) -> list[float]:
        """Return what each epoch of the last phase took."""
        return [round(end - begin, 3) for begin, end in pairwise(self.ends)]


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--data", help="CIFAR-100's folder; default: the digits")
    asked.add_argument("--epochs", type=int, default=3)
    asked.add_argument("--device", default="cuda")
    asked.add_argument("--teacher", default="resnet32x4")
    asked.add_argument("--student", default="resnet8x4")
    asked.add_argument("--out", type=Path, default=None)
    given = asked.parse_args()
    out = given.out or Path(tempfile.mkdtemp(prefix="on-a-card-"))
    common = {"teacher.model": given.teacher, "student.model": given.student, "method": "kd", "teacher.check": "off"}
    common |= {"train.device": given.device, "train.batch_size": 64, "teacher.train.epochs": 1}
    common |= {"data.name": given.data} if given.data else {}
    found = {
        "card": torch.cuda.get_device_name() if given.device.startswith("cuda") else platform.processor(),
        "torch": torch.__version__,
        "data": given.data or "digits",
        "trace": {mode: traced({**common, "train.graph": mode}, out / "traced" / mode) for mode in MODES},
        "run": {mode: timed({**common, "train.graph": mode}, out / "run" / mode, given.epochs) for mode in MODES},
    }
    print(json.dumps(found, indent=2))


def traced(common: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return what an epoch's steps start, by torch's profiler; ``trace.json`` there is for a browser's tracer."""
    setting = build_setting(recipes.from_dict({**common, "train.epochs": 1, "train.log_every": 1000}))
    clock, stop = _Clock(), StopRequest()
    execution = Execution(setting, clock, folder)
    execution.ready_teachers(stop)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if setting.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    job = execution.student_job(folder, None)
    steps = job.train_batches.steps
    with torch.profiler.profile(activities=activities) as profile:
        fit(job, clock, stop)
    folder.mkdir(parents=True, exist_ok=True)
    profile.export_chrome_trace(str(folder / "trace.json"))
    events = profile.key_averages()

    def started(words: str) -> int:
        return sum(event.count for event in events if words in event.key)

    return {
        "steps": steps,
        "not_recorded_for": clock.said,
        "launches_a_step": round((started("LaunchKernel") + started("GraphLaunch")) / steps, 1),
        "of_graphs": started("GraphLaunch"),
        "operations_a_step": round(sum(e.count for e in events if e.key.startswith("aten::")) / steps, 1),
        "slowest": [[e.key, e.count] for e in sorted(events, key=lambda e: -e.self_cpu_time_total)[:15]],
    }


def timed(common: dict[str, Any], folder: Path, epochs: int) -> dict[str, Any]:
    """Return what a short run takes, and what it makes of a long one."""
    replayed = {"cache.mode": "build", "data.views": min(epochs, 4)}
    clock, began = _Clock(), time.monotonic()
    recipe = recipes.from_dict({**common, **replayed, "train.epochs": epochs, "out": str(folder)})
    result = run(recipe, reporter=clock)
    seconds = clock.seconds()
    return {
        "epochs": epochs,
        "seconds_an_epoch": seconds,
        "not_recorded_for": clock.said,
        "whole_command_s": round(time.monotonic() - began, 1),
        "result": str(result.folder),
        "extrapolated_to_240_epochs_s": round(EPOCHS * min(seconds[1:] or seconds), 1),
        "said_to_be": "extrapolated from the fastest epoch but the first, its validation and checkpoint in it",
    }


if __name__ == "__main__":
    main()
