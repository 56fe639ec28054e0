"""Trackers: what a whole run leaves in each, a resumed one in the same place; and what happens where one fails."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kdtool.events import Reporter
from kdtool.track import follow
from tests.running import distil, start
from tests.terminal.runs import RESULT, record, tell

QUICK = ("teacher.train.epochs=1", "teacher.check=off", "--baseline")


def test_tensorboard_hears_of_a_whole_run(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = distil(tmp_path / "run", "--track", "tensorboard", *QUICK, "--epochs", "2")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    seen = [(event.step, event.value) for event in events.Scalars("student/loss/total")]
    assert [step for step, _ in seen] == [1, 2]
    assert [value for _, value in seen] == pytest.approx([line["train"]["total"] for line in done.log()])
    assert {"baseline/val/top1", "student/lr", "test/student/top1"} <= set(events.Tags()["scalars"])
    (tested,) = events.Scalars("test/student/top1")
    assert tested.value == pytest.approx(done.result["test"]["student"]["top1"])


def opened(name: str, folder: Path, result: dict[str, Any] | None, first: int) -> None:
    """Play a part of a run: epochs ``first`` and the next one, then perhaps the end."""
    with follow.following([name], "a project", folder, {"train": {"lr": 0.1}}, Reporter()) as reporter:
        reporter.phase("student")
        for epoch in (first, first + 1):
            with (folder / "metrics.jsonl").open("a") as log:
                log.write("{}\n")
            reporter.epoch(record(epoch))
        if result is not None:
            reporter.done(result)


def test_mlflow_goes_on_in_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    # The store that mlflow-skinny has, too: a database needs the whole of MLflow.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    folder = tmp_path / "run-7"
    folder.mkdir()
    opened("mlflow", folder, None, 1)
    client = mlflow.MlflowClient()
    (kept,) = client.search_runs([client.get_experiment_by_name("a project").experiment_id])
    assert kept.info.status == "KILLED"
    opened("mlflow", folder, RESULT, 3)
    (kept,) = client.search_runs([kept.info.experiment_id])
    assert (kept.info.run_name, kept.info.status) == ("run-7", "FINISHED")
    assert kept.data.params["train.lr"] == "0.1"
    assert kept.data.metrics["test/student/top1"] == 0.975
    history = client.get_metric_history(kept.info.run_id, "student/val/top1")
    assert [metric.step for metric in history] == [1, 2, 3, 4]


def test_wandb_offline_goes_on_under_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "own"))
    folder = tmp_path / "run"
    folder.mkdir()
    opened("wandb", folder, None, 1)
    known = json.loads((folder / follow.FILE).read_text())["wandb"]
    opened("wandb", folder, RESULT, 3)
    assert json.loads((folder / follow.FILE).read_text())["wandb"] == known
    kept = list((folder / "wandb").glob(f"offline-run-*/run-{known}.wandb"))
    assert kept
    assert sum(path.stat().st_size for path in kept) > 1000


class Failing:
    known = "x"

    def __init__(self) -> None:
        self.heard: list[str] = []

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        self.heard.append("log")
        raise OSError("no route to host")

    def finish(self, summary: Mapping[str, float] | None) -> None:
        self.heard.append("finish")


def test_a_tracker_that_fails_does_not_end_the_run(tmp_path: Path) -> None:
    class Watching(Reporter):
        warnings: list[str] = []  # noqa: RUF012

        def warn(self, text: str) -> None:
            self.warnings.append(text)

    failing, watching = Failing(), Watching()
    follower = follow.Follower(watching, {"failing": failing}, tmp_path)
    tell(follower)
    follower.finish()
    assert failing.heard == ["log"]
    assert "no route to host" in watching.warnings[-1]
    assert len(watching.warnings) == 2  # the run's own, and that


def test_a_missing_package_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "find_spec", lambda name: None)
    done = start(tmp_path / "run", "--track", "wandb")
    assert done.code == 2
    assert "pip install 'kdtool[wandb]'" in done.err
    assert not (tmp_path / "run").exists()


def test_figures_have_plain_names() -> None:
    values = follow.figures(record(1))
    assert values["student/loss/kl[b]"] == 0.5
    assert values["student/val/top1"] == 0.9
    assert values["student/lr"] == 0.1
    assert follow.results(RESULT)["test/baseline/macro_f1"] == 0.961
    assert follow.results(RESULT)["gain_points"] == 1.25
