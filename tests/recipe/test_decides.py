"""What a key decides stands beside it: the kept teacher's key, the cache's identity and the resume check follow."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from kdtool.cache.identity import differences, identity
from kdtool.recipe import load as recipes
from kdtool.recipe.decides import keys_deciding
from kdtool.recipe.options import OUTPUTS, STUDENT, TEACHER, option
from kdtool.recipe.schema import Recipe
from kdtool.registry import tasks
from kdtool.runs.resume import deciding
from kdtool.runs.setting import build_setting
from kdtool.runs.teachers import kept_in

PAIR = {"method": "kd", "teacher": {"model": "mlp_30"}, "student": {"model": "mlp_30"}, "train.device": "cpu"}


@dataclass
class Inner:
    plain: int = option(1, "as the section")
    own: int = option(2, "its own way", decides=(OUTPUTS,))


@dataclass
class Outer:
    inner: Inner = option(Inner, "a section", decides=(TEACHER,))
    where: str = option("here", "decides nothing", decides=())
    late: int = option(7, "came later", late=True)
    free: dict[str, Any] = option(dict, "a free mapping")


def test_keys_decide_what_they_say_or_what_their_section_does() -> None:
    outer = Outer(free={"a": {"b": 1}})
    assert keys_deciding(outer, STUDENT) == {"free.a.b": 1}
    assert keys_deciding(outer, TEACHER) == {"inner.plain": 1}
    assert keys_deciding(outer, OUTPUTS) == {"inner.own": 2}
    assert keys_deciding(dataclasses.replace(outer, late=8), STUDENT) == {"late": 8, "free.a.b": 1}


def test_a_run_may_change_only_what_decides_nothing() -> None:
    found = deciding(recipes.from_dict({**PAIR, "kd.temperature": 3}))
    assert found["kd.temperature"] == 3
    assert found["teacher.train.optim.name"] == "adamw"
    assert not [key for key in found if key.startswith(("out", "checkpoint.", "track.", "data.workers", "task"))]


def setting_of(changes: dict[str, Any]) -> Any:
    return build_setting(recipes.from_dict({**PAIR, **changes}))


def identity_of(setting: Any) -> dict[str, Any]:
    views = setting.train_batches.decides
    return identity(
        setting.task, setting.recipe, setting.teachers[0], "fp32", torch.device("cpu"), setting.data,
        setting.transfer_set, views,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"train.channels_last": False}, "teacher.channels_last"),
        ({"data.view_seed": 5}, "data.view_seed"),
        ({"data.labels_per_class": 8}, "data.labels_per_class"),
        ({"data.flip": 0.25}, "data.flip"),
        ({"cache.dtype": "fp32"}, "cache.dtype"),
    ],
)
def test_outputs_that_differ_are_not_shared(change: dict[str, Any], where: str) -> None:
    told = differences(identity_of(setting_of({})), identity_of(setting_of(change)))
    assert any(each.startswith(f"{where} is") for each in told), told


@pytest.mark.parametrize("change", [{"train.epochs": 3}, {"data.workers": 1}, {"optim.lr": 0.1}, {"data.views": 3}])
def test_outputs_that_are_the_same_are_shared(change: dict[str, Any]) -> None:
    assert differences(identity_of(setting_of({})), identity_of(setting_of(change))) == []


@pytest.mark.parametrize(
    ("change", "other"),
    [
        ({"train.channels_last": False}, True),
        ({"train.precision": "bf16"}, True),
        ({"data.crop_padding": 1}, True),
        ({"teacher.train.epochs": 3}, True),
        ({"data.labels_per_class": 5}, False),
        ({"data.sampler": "class-uniform"}, False),
        ({"train.epochs": 3}, False),
    ],
)
def test_a_kept_teacher_follows_from_what_decides_it(change: dict[str, Any], other: bool) -> None:
    def place(setting: Any) -> Path:
        return kept_in(setting.recipe.teacher[0], setting.teachers[0], setting.recipe, setting.task, setting.data)

    assert (place(setting_of({})) != place(setting_of(change))) is other


@pytest.mark.parametrize("task", tasks.names())
def test_every_key_of_every_task_says_a_known_thing(task: str) -> None:
    recipe = recipes.from_dict({"task": task})
    known = {TEACHER, OUTPUTS, STUDENT}
    for field in _fields(recipe):
        decides = field.metadata.get("decides")
        assert decides is None or decides <= known, field.name
        # What changes a teacher's outputs changes the student that learns from them.
        assert decides is None or OUTPUTS not in decides or STUDENT in decides, field.name


def _fields(section: Any) -> Iterator[dataclasses.Field[Any]]:
    for field in dataclasses.fields(section):
        yield field
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from _fields(value)


def test_a_recipe_of_the_default_task_is_digested_as_before_there_were_tasks() -> None:
    recipe = recipes.from_dict({})
    assert isinstance(recipe, Recipe)
    assert recipe.task == tasks.default()
    assert "task" not in deciding(recipe)
