"""A finished run made longer is, byte for byte, the run that had so many epochs from the start."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.running import CHEAP, PAIR, Done, call

RUN = ["--method", "none", *PAIR, *CHEAP, "--batch-size", "40"]
CONSTANT = ["schedule.name=constant", "schedule.warmup_epochs=0"]


def run(folder: Path, epochs: int, *more: object) -> Done:
    done = call("run", *RUN, "--epochs", epochs, *more, "--out", folder, folder=folder)
    assert done.code == 0, done.err
    return done


def longer(folder: Path, *more: object) -> Done:
    return call("run", "--resume", folder, *more, folder=folder)


def same(found: Done, expected: Done) -> None:
    assert found.code == 0, found.err
    assert found.file() == expected.file()
    assert [(each["epoch"], each["lr"], each["val"]) for each in found.log()] == [
        (each["epoch"], each["lr"], each["val"]) for each in expected.log()
    ]
    assert found.result["test"] == expected.result["test"]


def test_two_epochs_made_four_are_four_epochs(tmp_path: Path) -> None:
    first = run(tmp_path / "a", 2, *CONSTANT).file()
    found = longer(tmp_path / "a", "--epochs", "4")
    same(found, run(tmp_path / "b", 4, *CONSTANT))
    assert "from 2 epochs to 4" in found.out
    assert found.file() != first
    again = longer(tmp_path / "a")
    assert again.code == 0, again.err
    assert len(again.log()) == 4


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["schedule.name=multistep schedule.milestones=[1,3]", "schedule.epochs=4"])
def test_a_schedule_that_has_not_ended_goes_on(tmp_path: Path, schedule: str) -> None:
    plain = [*schedule.split(), "schedule.warmup_epochs=0"]
    run(tmp_path / "a", 2, *plain)
    same(longer(tmp_path / "a", "--epochs", "4"), run(tmp_path / "b", 4, *plain))


@pytest.mark.slow
def test_stages_ramps_and_the_baseline_stay_as_they_were(tmp_path: Path) -> None:
    staged = ["--method", "fitnets", "--baseline", "--epochs", "3", "teacher.train.epochs=1", *CONSTANT]
    run(tmp_path / "a", 3, *staged)
    found = longer(tmp_path / "a", "--epochs", "4")
    expected = run(tmp_path / "b", 4, *staged, "--epochs", "4", "schedule.epochs=3")
    same(found, expected)
    assert found.file("baseline/student/model.safetensors") == expected.file("baseline/student/model.safetensors")


def test_a_cosine_that_ended_asks_what_is_meant(tmp_path: Path) -> None:
    first = run(tmp_path / "a", 2)
    done = longer(tmp_path / "a", "--epochs", "3")
    assert done.code == 2
    for word in ("cosine", "1e-06", "--student-weights", "schedule.epochs=2"):
        assert word in done.err
    assert done.file() == first.file()
    assert done.result["steps"] == 4
    found = longer(tmp_path / "a", "--epochs", "3", "schedule.epochs=2")
    assert found.code == 0, found.err
    assert found.log()[-1]["lr"] == pytest.approx(1e-6)
    assert found.result["steps"] == 6
    for wrong, word in (
        (["--epochs", "3"], "has 3 epochs"),
        (["--epochs", "5", "--lr", "0.1"], "optim.lr"),
        (["--epochs", "5", "schedule.epochs=5"], "made for 2"),
        (["--lr", "0.1"], "--epochs"),
    ):
        refused = longer(tmp_path / "a", *wrong)
        assert refused.code == 2
        assert word in refused.err
