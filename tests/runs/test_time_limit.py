"""``--time-limit``: epochs cut to what fits, once, and the run is the one that those epochs give without a limit."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from kdtool.errors import InputError
from kdtool.recipe import durations
from kdtool.recipe import load as recipes
from kdtool.runs.estimate import Costs
from kdtool.runs.setting import Setting, build_setting
from kdtool.runs.time_limit import SHARE, fitting
from tests.running import CHEAP, PAIR, Done, call

RUN = [*PAIR, *CHEAP, "--baseline", "--batch-size", "40", "data.val_fraction=0"]


@pytest.mark.parametrize(
    ("text", "seconds"), [("2h", 7200), ("90m", 5400), ("1h30m", 5400), ("45 s", 45), ("1.5H", 5400), ("1d", 86400)]
)
def test_lengths_of_time(text: str, seconds: float) -> None:
    assert durations.seconds(text, "train.time_limit") == seconds


@pytest.mark.parametrize("text", ["2", "h", "2 weeks", "-1h", "0s", "1h-5m"])
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"train.time_limit=.* is no length of time.*2h"):
        durations.seconds(text, "train.time_limit")


def test_a_flag_without_a_unit_is_refused() -> None:
    done = call("run", "--time-limit", "20")
    assert done.code == 2
    assert "is no length of time" in done.err


@pytest.fixture(scope="module")
def setting() -> Setting:
    flags = {"teacher.model": [PAIR[1]], "student.model": PAIR[3], "train.epochs": 24, "baseline": True}
    schedule = ["schedule.name=multistep", "schedule.milestones=[10,23]", "teacher.train.epochs=12"]
    return build_setting(recipes.load(overrides=[*CHEAP, *schedule], flags=flags))


def costs(teacher: float | None = 2.0) -> Costs:
    return Costs({0: teacher} if teacher else {}, 1.0, [3.0], None, True)


def test_student_baseline_and_teacher_are_cut_alike(setting: Setting) -> None:
    # 24 * (1 + 3) + 12 * 2 = 120 s of 60: half, less what is left for the rest.
    found = fitting(setting, costs(), "60s")
    count = found.recipe.train.epochs
    assert found.epochs["student"] == found.epochs["baseline"] == (24, count)
    teacher = found.recipe.teacher[0].train.epochs
    assert teacher == count // 2
    assert 4 * count + 2 * teacher <= 60 * SHARE < 4 * (count + 1) + 2 * ((count + 1) // 2)
    assert sum(found.seconds.values()) == 4 * count + 2 * teacher


def test_drops_of_the_rate_come_as_much_earlier(setting: Setting) -> None:
    found = fitting(setting, costs(), "66.7s").recipe
    assert found.train.epochs == 12
    assert found.schedule.milestones == [5, 11]  # the last one within the run, as it was
    assert found.train.time_limit is None


def test_a_teacher_that_is_kept_stays_the_kept_one(setting: Setting) -> None:
    found = fitting(setting, costs(teacher=None), "60s")
    assert found.recipe.teacher[0].train.epochs == 12
    assert found.recipe.train.epochs == 13  # 54 s of room, at 4 s an epoch


def test_what_fits_is_left_as_it_is(setting: Setting) -> None:
    found = fitting(setting, costs(), "1h")
    assert found.recipe == setting.recipe
    assert found.epochs == {}
    assert "nothing is cut" in found.sentence()


def test_less_than_an_epoch_of_each_is_refused(setting: Setting) -> None:
    with pytest.raises(InputError, match=r"too short: .* about 6 s .* leaves 5 s"):
        fitting(setting, costs(), "6s")


@pytest.mark.slow
def test_the_run_is_that_of_the_epochs_that_fit(tmp_path: Path) -> None:
    quick = ["--method", "none", *PAIR, *CHEAP, "--batch-size", "40", "data.val_fraction=0"]

    def run(name: str, *more: object) -> Done:
        done = call("run", *quick, *more, "--out", tmp_path / name, folder=tmp_path / name)
        assert done.code == 0, done.err
        return done

    cut = run("cut", "--epochs", "100000", "--time-limit", "3s")
    noted = json.loads(cut.file("time_limit.json"))
    whole, count = noted["epochs"]["student"]
    assert (noted["limit"], whole, len(cut.log())) == ("3s", 100000, count)
    assert f"student 100000 -> {count}" in cut.out
    assert cut.file() == run("plain", "--epochs", count).file()
    late = call("run", "--resume", tmp_path / "cut", "--time-limit", "4s")
    assert late.code == 2


@pytest.mark.slow
def test_a_dry_run_shows_the_cut(tmp_path: Path) -> None:
    done = call("run", *RUN, "--epochs", "100000", "--time-limit", "20s", "--dry-run", "--json", "teacher.train.epochs=1")
    assert done.code == 0, done.err
    shown = json.loads(done.out)
    assert 1 <= shown["recipe"]["train"]["epochs"] < 100000
    assert shown["recipe"]["train"]["time_limit"] is None


def test_other_commands_do_not_cut(setting: Setting) -> None:
    recipe = copy.deepcopy(setting.recipe)
    recipe.train.time_limit = "1h"
    with pytest.raises(InputError, match="kdtool run"):
        build_setting(recipe)


def test_what_makes_several_runs_is_refused() -> None:
    done = call("run", *RUN, "--generations", "2", "--time-limit", "1h")
    assert done.code == 2
    assert "time_limit" in done.err
