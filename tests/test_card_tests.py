"""Some of what ``make test-gpu`` runs on a card, on one that is simulated: that it can be run at all, and asks for
nothing that is known not to hold."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import test_on_a_card
from tests.engine import test_cuda
from tests.recorded import Graph
from tests.running import STUDENT, TEACHER, write_images
from tests.simulated import simulated

ROOT = Path(__file__).resolve().parents[1]


def _takes_steps(_: Path, **given: str) -> None:
    test_on_a_card.on_the_card(**given)


STEPS = [
    (test_cuda.test_training, {"precision": "bf16", "kind": test_cuda.Hinted}),
    (test_cuda.test_training, {"precision": "fp16", "kind": test_cuda.Related}),
    (test_cuda.test_no_step_waits_for_the_device, {}),
    (_takes_steps, {"name": "rkd", "task": "images", "kind": "CNN", "precision": "bf16"}),
    (_takes_steps, {"name": "crd", "task": "images", "kind": "ViT", "precision": "fp16"}),
    *((test_cuda.test_the_update_of_a_bad_step_is_withheld, {"optimizer": name}) for name in ("adamw", "sgd", "lamb")),
]


RUNS = [
    (test_cuda.test_a_whole_run, {}),
    (test_on_a_card.test_two_epochs, {"method": "dml", "precision": "fp16"}),
    (test_on_a_card.test_replayed_and_live_are_alike, {}),
    (test_on_a_card.test_equal_bytes_where_they_are_asked_for, {}),
]


def _name(value: Any) -> str:
    return value.__name__ if callable(value) else "-".join(map(str, value.values()))


@pytest.mark.parametrize(("test", "given"), STEPS, ids=_name)
def test_it_passes_on_a_simulated_card(test: Any, given: dict[str, Any], tmp_path: Path) -> None:
    with simulated():
        test(tmp_path, **given)


@pytest.mark.slow
@pytest.mark.parametrize(("test", "given"), RUNS, ids=_name)
def test_a_run_passes_on_a_simulated_card(test: Any, given: dict[str, Any], tmp_path: Path) -> None:
    with simulated():
        test(tmp_path, **given)


def test_replayed_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Graph.replays
    with simulated():
        test_cuda.test_replayed_steps_are_steps(tmp_path, "bf16", "sgd", monkeypatch)
    assert Graph.replays > before


@pytest.mark.slow
def test_the_speeds_of_steps_as_they_come_and_of_recorded_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What ``make test-gpu-speed`` prints of a card."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    program = importlib.import_module("on_a_card")
    data = write_images(tmp_path / "images", {"a": 200, "b": 200})
    given = ["--data", data, "--epochs", "3", "--teacher", TEACHER, "--student", STUDENT, "--out", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", ["on_a_card", *map(str, given)])
    before = Graph.replays
    with simulated():
        program.main()
    found = json.loads(capsys.readouterr().out)
    assert Graph.replays > before
    for mode in ("off", "auto"):
        assert found["trace"][mode]["operations_a_step"] > 0
        assert (tmp_path / "out" / "traced" / mode / "trace.json").is_file()
        run = found["run"][mode]
        assert run["not_recorded_for"] == ""
        assert len(run["seconds_an_epoch"]) == 3
        assert sum(run["seconds_an_epoch"]) < run["whole_command_s"]
        assert run["extrapolated_to_240_epochs_s"] == pytest.approx(240 * min(run["seconds_an_epoch"][1:]), abs=0.1)


def test_prefetched_batches() -> None:
    with simulated():
        test_cuda.test_prefetched_batches_are_the_same()
