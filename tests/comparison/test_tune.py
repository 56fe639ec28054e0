"""``--tune``: what is searched, and that the validation split alone decides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdtool.comparison.plan import Cell, Plan
from kdtool.comparison.space import Range, space
from kdtool.errors import InputError
from tests.comparison.small import compare, values

pytest.importorskip("optuna")


def ranges(method: str, given: dict[str, str] | None = None) -> dict[str, Range]:
    recipe = Plan({"teacher": "test_resnet"}, [method], ["test_vit"], [0]).recipe_of(Cell("test_vit", method, 0))
    return {each.key: each for each in space(recipe, given or {})}


def test_metadata_decide_what_is_searched() -> None:
    found = ranges("kd")
    assert found["kd.alpha"] == Range("kd.alpha", 0.9, low=0.0, high=1.0)
    temperature = found["kd.temperature"]
    assert (temperature.low, temperature.high, temperature.log) == (
        temperature.default / 10,
        temperature.default * 10,
        True,
    )
    assert found["kd.average"].choices == ("probabilities", "logits")
    assert "kd.teacher_weights" not in found


def test_defaults_that_depend_on_scale_are_left_alone_unless_a_range_is_given() -> None:
    assert "at.weight" not in ranges("at")
    assert ranges("at", {"at.weight": "10:1000"})["at.weight"] == Range("at.weight", None, low=10, high=1000, log=True)
    assert ranges("kd", {"kd.temperature": "1,4"})["kd.temperature"].choices == (1, 4)


@pytest.mark.parametrize("text", ["1:0", "x:1", "1", ":"])
def test_odd_ranges_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="no range"):
        ranges("kd", {"kd.alpha": text})


def test_nothing_is_searched_without_a_method() -> None:
    assert ranges("none") == {}


@pytest.mark.slow
def test_the_best_trial_on_the_validation_split_is_compared(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    options = ["--methods", "none,kd", "--seeds", "1", "--epochs", "2", "--tune", "2", "--range", "kd.alpha=0.2,0.5"]
    done = compare(folder, *options)
    assert done.code == 0, done.err + done.out
    none, kd = values(folder)["tuned"]
    assert (none["trials"], none["options"], kd["trials"]) == (0, {}, 2)
    place = folder / "test_efficientnet" / "kd"
    trials = [json.loads((place / "tune" / f"trial-{i}" / "trial.json").read_text())["val"] for i in range(2)]
    assert kd["val"] == max(trials)
    assert kd["default_val"] == trials[0]
    chosen = json.loads((place / "tune" / f"trial-{trials.index(max(trials))}" / "options.json").read_text())
    assert kd["options"] == chosen
    # A trial keeps no student and no test result: the test split is for the comparison alone.
    assert not any((place / "tune").rglob("result.json"))
    from kdtool.runs.folder import open_for_resume  # a finished run: its recipe is in the folder

    assert open_for_resume(place / "seed-0").result is not None
    assert f"temperature: {chosen['kd.temperature']}" in (place / "seed-0" / "recipe.yaml").read_text()
    assert "seed that is not compared" in " ".join(values(folder)["says"])
