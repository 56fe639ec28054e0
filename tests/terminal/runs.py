"""What a run tells its reporter, and what it comes to."""

from __future__ import annotations

from typing import Any

from kdtool.events import Metric, Reporter

RESULT: dict[str, Any] = {
    "method": "m",
    "folder": "runs/[red]x[/red]",
    "teacher": {"name": "big[bold]net", "params": 25_600_000, "macs": 4_100_000_000, "bytes": 102_000_000},
    "student": {"name": "small", "params": 4_200_000, "macs": 217_000_000, "bytes": 17_200_000},
    "test": {
        "teacher": {"top1": 0.99, "top5": 1.0, "macro_recall": 0.985, "macro_f1": 0.986},
        "student": {"top1": 0.975, "top5": 0.9995, "macro_recall": 0.97, "macro_f1": 0.971},
        "baseline": {"top1": 0.9625, "top5": 0.998, "macro_recall": 0.96, "macro_f1": 0.961},
    },
    "gain_points": 1.25,
}

DRY_RUN: dict[str, Any] = {
    "dry_run": True,
    "data": {
        "name": "dataset",
        "unit": "images",
        "class_names": ["ant", "[b]bee"],
        "notes": ["3 .txt were passed over"],
        "warnings": ["2 of 9 test images stand in the training set, too"],
        "unreadable": [],
        "seconds": None,
        "parts": {
            "training": {
                "origin": "dataset/train",
                "samples": 41,
                "unlabelled": 1,
                "counts": {"ant": 20, "[b]bee": 20},
            },
            "test": {"origin": "dataset/test", "samples": 9, "unlabelled": 0, "counts": {"ant": 4, "[b]bee": 5}},
        },
    },
    "seconds": {"teacher big": 45.0, "student": 20.0, "total": 65.0},
    "recipe": {"method": "m", "train": {"epochs": 3}},
    "taps": {"student": {"deep": (64, 8, 8), "several": [(8, 4, 4), (16, 2, 2)]}, "teachers": [{"hint": (5,)}, {}]},
    "stages": [{"name": "hint", "epochs": 1, "steps": 22}, {"name": "distill", "epochs": 2, "steps": 44}],
    "models": [
        {"role": "teacher", "name": "big", "params": 25_600_000, "macs": 4_100_000_000},
        {"role": "student", "name": "small", "params": 4_200_000, "macs": None},
    ],
}


def record(epoch: int, stage: str = "distill", val: float | None = 0.9) -> dict[str, Any]:
    return {
        "phase": "student", "stage": stage, "epoch": epoch, "epochs": 3, "lr": 0.1, "seconds": 2.0,
        "samples_per_s": 640.4, "train": {"kl[b]": 0.5, "task": 0.25, "total": 0.75},
        "val": None if val is None else {"top1": val},
    }  # fmt: skip


TOP1 = Metric()


def tell(reporter: Reporter, result: dict[str, Any] | None = None, unit: str = "images", metric: Metric = TOP1) -> None:
    """Play a run of two stages."""
    with reporter:
        reporter.about(unit, metric)
        reporter.note("student: [i]small[/i]")
        reporter.warn("teacher is [u]weak[/u]")
        reporter.phase("student")
        reporter.stage("hint", 1, 10)
        reporter.step({"hint": 0.5, "total": 0.5}, 5, 10, 100.0)
        reporter.epoch({**record(1, "hint", None), "epochs": 1, "train": {"hint": 0.25, "total": 0.25}})
        reporter.stage("distill", 3, 10)
        for epoch in (1, 2, 3):
            reporter.step({"kl[b]": 0.5, "task": 0.25, "total": 0.75}, 5, 10, 640.0)
            reporter.epoch(record(epoch))
        reporter.done(RESULT if result is None else result)
