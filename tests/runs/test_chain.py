"""Assistants and generations: runs in a row, each finished one kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import kdtool
from kdtool.errors import InputError, Interrupted
from kdtool.events import Reporter
from kdtool.recipe.load import from_dict
from kdtool.runs.chain import links
from tests.running import STUDENT, TEACHER

TINY = {
    "method": "kd",
    "teacher": {"model": TEACHER, "check": "off", "train": {"epochs": 1}},
    "student": {"model": STUDENT},
    "data": {"labels_per_class": 4, "val_fraction": 0.0},
    "train": {"epochs": 2, "batch_size": 20},
}


def recipe(**changes: Any) -> dict[str, Any]:
    return {**TINY, **changes}


def test_each_link_teaches_the_next(tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = kdtool.run(recipe(assistants=["test_resnet", "test_vit"], out=str(out))).to_dict()
    first, second = (json.loads((Path(folder) / "result.json").read_text()) for folder in result["chain"])
    assert [link["student"]["name"].split(".")[0] for link in (first, second, result)] == [
        "test_resnet",
        "test_vit",
        "test_efficientnet",
    ]
    # What a link reports of itself, the next reports of its teacher.
    assert second["test"]["teacher"] == first["test"]["student"]
    assert result["test"]["teacher"] == second["test"]["student"]


def test_generations_start_from_weights_of_their_own_and_the_last_from_the_runs_seed(tmp_path: Path) -> None:
    checked = from_dict(recipe(generations=3))
    one, two, last = links(checked, tmp_path)
    assert len({one.train.seed, two.train.seed, last.train.seed}) == 3
    assert last.train.seed == checked.train.seed
    assert one.teacher == checked.teacher
    assert last.teacher[0].weights == str(tmp_path / "chain" / "2-test_efficientnet" / "student" / "model.safetensors")


def test_a_recipe_without_a_chain_is_its_own_only_link(tmp_path: Path) -> None:
    checked = from_dict(recipe())
    assert links(checked, tmp_path) == [checked]


@pytest.mark.parametrize("method", ["none", "dml", "byot"])
def test_methods_without_a_trained_teacher_take_no_chain(method: str, tmp_path: Path) -> None:
    wanted = recipe(method=method, generations=2)
    if method != "dml":
        wanted.pop("teacher")
    with pytest.raises(InputError, match="generations=2"):
        kdtool.run({**wanted, "out": str(tmp_path / "run")})
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_stopped_chain_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    class StopInSecond(Reporter):
        """Asks for a stop while the second link trains."""

        seen = 0

        def epoch(self, record: Any) -> None:
            import os
            import signal

            self.seen += record["phase"] == "student"
            if self.seen == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    whole = kdtool.run(recipe(generations=2, out=str(tmp_path / "whole")))
    with pytest.raises(Interrupted, match=str(tmp_path / "parts")):
        kdtool.run(recipe(generations=2, out=str(tmp_path / "parts")), reporter=StopInSecond())
    done = tmp_path / "parts" / "chain" / "1-test_efficientnet" / "student" / "model.safetensors"
    made = done.stat().st_mtime_ns
    kdtool.run(resume=tmp_path / "parts")
    assert done.stat().st_mtime_ns == made
    assert whole.folder is not None
    files = [folder / "student" / "model.safetensors" for folder in (whole.folder, tmp_path / "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()
