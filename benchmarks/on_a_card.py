"""What a CUDA card does with the runs of CIFAR-100's tables: a trace of a step, and what a whole run would take.

    python benchmarks/on_a_card.py [--data FOLDER] [--epochs 3] [--out FOLDER]

Prints one JSON document: the card; of KD's step from resnet32x4 to resnet8x4 at batch 64 the operations started, the
kernels, and the time of both; and of a run of a few epochs, with the teacher replayed, the seconds an epoch, from which
the 240 epochs of the recipe are extrapolated. Without CIFAR-100 the run is on the digits, and says so.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
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
        "trace": traced(common, out),
        "run": timed(common, out, given.epochs),
    }
    print(json.dumps(found, indent=2))


def traced(common: dict[str, Any], out: Path) -> dict[str, Any]:
    """Return what an epoch's steps start, by torch's profiler; its trace is ``trace.json``, for a browser's tracer."""
    setting = build_setting(recipes.from_dict({**common, "train.epochs": 1, "train.log_every": 1000}))
    execution = Execution(setting, Reporter(), out / "traced")
    execution.ready_teachers(StopRequest())
    activities = [torch.profiler.ProfilerActivity.CPU]
    if setting.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    job = execution.student_job(out / "traced", None)
    steps = job.train_batches.steps
    with torch.profiler.profile(activities=activities) as profile:
        fit(job, Reporter(), StopRequest())
    profile.export_chrome_trace(str(out / "trace.json"))
    events = profile.key_averages()
    launches = sum(event.count for event in events if "LaunchKernel" in event.key)
    return {
        "steps": steps,
        "launches_a_step": round(launches / steps, 1),
        "operations_a_step": round(sum(e.count for e in events if e.key.startswith("aten::")) / steps, 1),
        "slowest": [[e.key, e.count] for e in sorted(events, key=lambda e: -e.self_cpu_time_total)[:15]],
    }


def timed(common: dict[str, Any], out: Path, epochs: int) -> dict[str, Any]:
    """Return what a short run takes, and what it makes of a long one."""
    replayed = {"cache.mode": "build", "data.views": min(epochs, 4)}
    began = time.monotonic()
    result = run(recipes.from_dict({**common, **replayed, "train.epochs": epochs, "out": str(out / "run")}))
    log = [json.loads(line) for line in (out / "run" / "metrics.jsonl").read_text().splitlines()]
    seconds = [line["seconds"] for line in log if line["phase"].startswith("student")]
    return {
        "epochs": epochs,
        "seconds_an_epoch": seconds,
        "whole_command_s": round(time.monotonic() - began, 1),
        "result": str(result.folder),
        "extrapolated_to_240_epochs_s": round(EPOCHS * min(seconds[1:] or seconds), 1),
        "said_to_be": "extrapolated from the fastest epoch but the first; validation and checkpoints are not in it",
    }


if __name__ == "__main__":
    main()
