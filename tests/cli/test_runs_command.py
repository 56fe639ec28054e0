"""``kdtool runs``: state and result of what lies in a folder."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from kdtool.errors import Interrupted, RunError
from kdtool.runs.listing import failure_noted, list_runs
from tests.cli.conftest import Answer

Kdtool = Callable[..., Answer]


def a_run(folder: Path, age: float, result: dict[str, Any] | None = None) -> Path:
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text("method: kd\nteacher: {model: big}\nstudent: {model: small}\n")
    record = {"phase": "student", "stage": "distill", "epoch": 2, "epochs": 9, "val": {"top1": 0.5}}
    (folder / "metrics.jsonl").write_text(json.dumps(record) + '\n{"torn')
    if result is not None:
        (folder / "result.json").write_text(json.dumps(result))
    for file in folder.iterdir():
        os.utime(file, (1e9 - age, 1e9 - age))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    test = {"student": {"top1": 0.9}, "baseline": {"top1": 0.875}}
    a_run(tmp_path / "done", 1, {"test": test, "gain_points": 2.5, "seconds": {"total": 61}})
    a_run(tmp_path / "study" / "kd" / "seed-0", 2)
    a_run(tmp_path / "busy", 0)
    a_run(tmp_path / "broken", 3)
    (tmp_path / "notes").mkdir()
    return tmp_path


def test_states_and_results(kdtool: Kdtool, folder: Path) -> None:
    with pytest.raises(RunError), failure_noted(folder / "broken"):
        raise RunError("the loss is not finite")
    with FileLock(folder / "busy" / ".lock"):
        answer = kdtool("runs", folder, "--json")
        table = kdtool("runs", folder)
    found = json.loads(answer.out)
    names = [Path(run["folder"]).relative_to(folder).as_posix() for run in found]
    assert names == ["busy", "done", "study/kd/seed-0", "broken"]
    assert [run["state"] for run in found] == ["running", "finished", "stopped", "failed"]
    done, stopped, failed = found[1:]
    assert (done["top1"], done["baseline"], done["gain_points"], done["seconds"]) == (0.9, 0.875, 2.5, 61)
    assert stopped["resume"] == f"kdtool run --resume {folder / 'study/kd/seed-0'}"
    assert stopped["last_epoch"]["epoch"] == 2
    assert failed["error"] == "the loss is not finite"
    assert (stopped["teacher"], stopped["student"], stopped["method"]) == (["big"], "small", "kd")
    for words in ("running: distill 2/9", "90.00 %", "+2.50", "1:01", "the loss is not finite"):
        assert words in table.out


def test_a_run_that_goes_on_has_not_failed(folder: Path) -> None:
    with pytest.raises(RunError), failure_noted(folder / "broken"):
        raise RunError("no room")
    with pytest.raises(Interrupted), failure_noted(folder / "broken"):
        raise Interrupted("stopped", 130)
    assert list_runs(folder / "broken")[0]["state"] == "stopped"


def test_no_folder_is_bad_input(kdtool: Kdtool, tmp_path: Path) -> None:
    answer = kdtool("runs", tmp_path / "nowhere")
    assert answer.code == 2
    assert "nowhere" in answer.err
    assert kdtool("runs", tmp_path).out.strip() == "no runs here yet"
    assert kdtool("runs", tmp_path, "--json").out.strip() == "[]"


def test_a_reader_that_went_away_is_no_failure_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in `kdtool run ... | head`: the run is stopped, and can be resumed. Of other broken pipes it has failed."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as nobody_reads, monkeypatch.context() as patch:
        patch.setattr(sys, "__stdout__", nobody_reads)
        with pytest.raises(BrokenPipeError), failure_noted(tmp_path):
            raise BrokenPipeError("gone")
    assert not (tmp_path / "error.json").exists()
    for error in (BrokenPipeError, RuntimeError):
        with pytest.raises(error), failure_noted(tmp_path):
            raise error("gone")
        assert json.loads((tmp_path / "error.json").read_text())["kind"] == error.__name__


def test_a_comparison_is_one_line_until_its_folder_is_named(kdtool: Kdtool, tmp_path: Path) -> None:
    folder = tmp_path / "compare-1"
    a_run(folder / "small" / "kd" / "seed-0", 1)
    row = {"student": "small", "best": {"mean": 0.9, "sd": None, "difference": None}}
    better = {**row, "method": "kd", "best": {**row["best"], "mean": 0.95, "difference": {"mean": 0.05}}}
    runs = [{"state": "done"}, {"state": "done"}, {"state": "waiting"}]
    found = {
        "methods": ["none", "kd"],
        "students": ["small"],
        "rows": [{**row, "method": "none"}, better],
        "runs": runs,
    }
    (folder / "comparison.json").write_text(json.dumps(found))
    (entry,) = json.loads(kdtool("runs", tmp_path, "--json").out)
    assert (entry["kind"], entry["state"], entry["method"]) == ("comparison", "stopped", "kd")
    assert (entry["value"], entry["runs"]) == (0.95, {"done": 2, "failed": 0, "of": 3})
    assert entry["gain"] == pytest.approx(5)
    assert entry["resume"] == f"kdtool compare --resume {folder}"
    table = kdtool("runs", tmp_path).out
    assert "95.00 %" in table
    assert "2/3 runs" in " ".join(table.split())
    (run,) = json.loads(kdtool("runs", folder, "--json").out)
    assert (run["kind"], run["folder"]) == ("run", str(folder / "small" / "kd" / "seed-0"))
    runs[2]["state"] = "failed"
    (folder / "comparison.json").write_text(json.dumps(found))
    (entry,) = list_runs(tmp_path)
    assert (entry["state"], entry["error"]) == ("failed", "1 of 3 runs failed")
