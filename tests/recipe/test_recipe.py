"""Recipes: how file, flags and overrides come together, and that what is written reads back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdtool.errors import InputError
from kdtool.recipe import load as recipes
from kdtool.recipe import yaml_file as recipe_file
from kdtool.recipe.schema import Recipe, TeacherTrain
from kdtool.tasks.images.options import Teacher
from tests.recipe.made_up import METHODS, PLUGIN, load, written


@pytest.fixture(autouse=True)
def _methods(install: Callable[..., None]) -> None:
    install("test-methods", METHODS, recipe_plugin=PLUGIN)


# --- what comes together --------------------------------------------------------------------------------------------


def test_defaults_make_a_whole_recipe() -> None:
    recipe = load()
    assert recipe.method == "kd"
    assert [teacher.model for teacher in recipe.teacher] == ["resnet50"]
    assert recipe.student.model == "mobilenetv3"
    assert recipe.data.name == "digits"
    assert list(recipe.options) == ["kd"]


def test_later_wins_file_then_flags_then_overrides(tmp_path: Path) -> None:
    path = written(tmp_path, "method: m_one\ntrain: {epochs: 1, batch_size: 1, seed: 1}\n")
    recipe = load("train.seed=3", path=path, train__batch_size=2, train__seed=2)
    assert (recipe.train.epochs, recipe.train.batch_size, recipe.train.seed) == (1, 2, 3)


def test_options_live_under_the_methods_names() -> None:
    recipe = load("method=m_free+m_hard", "m_free.weight=0.5", "m_free.inner.depth=2", "m_free.branches=[{depth: 3}]")
    free = recipe.options["m_free"]
    assert (free.weight, free.inner.depth, free.branches[0].depth, free.branches[0].name) == (0.5, 2, 3, "x")
    assert list(recipe.options) == ["m_free", "m_hard"]
    assert recipes.parts(recipe) == ["m_free", "m_hard"]


@pytest.mark.parametrize(
    ("text", "value"), [("2", 2), ("0.25", 0.25), ("layer3.1:in", "layer3.1:in"), ("embedding", "embedding")]
)
def test_layers_keep_their_kind(text: str, value: Any) -> None:
    recipe = load("method=m_free", f"m_free.layer={text}", f"m_free.layers=['{text}', {text}, -1]")
    assert recipe.options["m_free"].layers == [text, value, -1]
    assert recipe.options["m_free"].layer == value
    assert type(recipe.options["m_free"].layer) is type(value)


def test_one_teacher_or_a_list_of_them(tmp_path: Path) -> None:
    one = load(path=written(tmp_path, "method: m_free\nteacher: {model: a, train: {epochs: 3}}\n"))
    assert [(t.model, t.train.epochs) for t in one.teacher] == [("a", 3)]
    two = load(path=written(tmp_path, "method: m_free\nteacher:\n- {model: a, weights: scratch}\n- b\n"))
    assert [(t.model, t.weights) for t in two.teacher] == [("a", "scratch"), ("b", "auto")]
    assert load("teacher=resnet18").teacher == [Teacher(model="resnet18")]


def test_teacher_overrides_go_to_all_or_to_one() -> None:
    recipe = load("method=m_free", "teacher.train.epochs=4", "teacher.1.train.epochs=5", teacher__model=["a", "b"])
    assert [(t.model, t.train.epochs) for t in recipe.teacher] == [("a", 4), ("b", 5)]


def test_an_alias_stands_for_a_copy(tmp_path: Path) -> None:
    path = written(tmp_path, "method: m_free\nteacher:\n- &one {model: a, train: {epochs: 3}}\n- *one\n")
    recipe = load("teacher.1.model=b", "teacher.0.train.epochs=4", path=path)
    assert [(t.model, t.train.epochs) for t in recipe.teacher] == [("a", 4), ("b", 3)]


def test_repeated_teacher_flags_pair_up_and_keep_what_the_file_says(tmp_path: Path) -> None:
    path = written(tmp_path, "method: m_free\nteacher: {model: a, train: {epochs: 3}}\n")
    recipe = load(path=path, teacher__model=["b", "c"], teacher__weights=["scratch", "w.pth"])
    found = [(t.model, t.weights, t.train.epochs) for t in recipe.teacher]
    assert found == [("b", "scratch", 3), ("c", "w.pth", TeacherTrain().epochs)]
    with pytest.raises(InputError, match="1 times for 2 teachers"):
        load(path=path, teacher__model=["b", "c"], teacher__weights=["scratch"])


def test_teacher_weights_alone_go_to_the_teachers_that_are_there() -> None:
    assert load(teacher__weights=["w.pth"]).teacher == [Teacher(weights="w.pth")]


def test_free_mappings_take_any_key() -> None:
    recipe = load("student.model_args.drop_rate=0.1", "optim.options={eps: 1e-6}", "teacher.model_args.act=relu")
    assert recipe.student.model_args == {"drop_rate": 0.1}
    assert recipe.optim.options == {"eps": 1e-6}
    assert recipe.teacher[0].model_args == {"act": "relu"}


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("train.epochs=007", "train", "epochs", 7),
        ("optim.lr=1e-2", "optim", "lr", 0.01),
        ("optim.lr=1", "optim", "lr", 1.0),
        ("data.name=12:30", "data", "name", "12:30"),
        ("data.name=a: b #c", "data", "name", "a: b #c"),
        ("data.name=no", "data", "name", "no"),
        ("data.root=null", "data", "root", None),
        ("data.views=none", "data", "views", None),
        ("data.exclude_classes=[007, 1, cat]", "data", "exclude_classes", ["007", "1", "cat"]),
        ("data.download=true", "data", "download", True),
        ("data.crop_scale=[0.5, 1]", "data", "crop_scale", [0.5, 1.0]),
        ("data.mean=[0, 0.5, 1]", "data", "mean", [0.0, 0.5, 1.0]),
        ("schedule.milestones=[1, 2]", "schedule", "milestones", [1, 2]),
    ],
)
def test_values_are_read_as_their_keys_want_them(override: str, section: str, key: str, value: Any) -> None:
    found = getattr(getattr(load(override), section), key)
    assert found == value
    assert type(found) is type(value)


def test_text_that_yaml_1_1_takes_for_something_else_stays_text(tmp_path: Path) -> None:
    path = written(tmp_path, "teacher: {check: off}\ndata: {name: 1_000, exclude_classes: [no, 001, 1:30]}\n")
    recipe = load(path=path)
    assert recipe.teacher[0].check == "off"
    assert recipe.data.exclude_classes == ["no", "001", "1:30"]


def test_from_python() -> None:
    recipe = recipes.from_dict({"method": "m_free", "train.epochs": 3, "train": {"seed": 4}, "m_free": {"weight": 2}})
    assert (recipe.train.epochs, recipe.train.seed, recipe.options["m_free"].weight) == (3, 4, 2.0)
    assert recipes.from_dict({"out": Path("runs/x")}).out == str(Path("runs/x"))
    assert recipes.validate(Recipe(method="m_self")).options["m_self"] is not None
    with pytest.raises(InputError, match="out of range"):
        recipes.validate(dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, epochs=0)))


def test_empty_sections_and_files_mean_the_defaults(tmp_path: Path) -> None:
    assert load(path=written(tmp_path, "# nothing\n")) == load()
    assert load(path=written(tmp_path, "train:\nteacher:\nkd:\n")) == load()


# --- methods and teachers -------------------------------------------------------------------------------------------


def test_none_takes_no_teacher_and_says_so() -> None:
    notes: list[str] = []
    recipe = recipes.from_dict({"method": "none", "teacher": {"model": "a"}}, note=notes.append)
    assert (recipe.teacher, recipe.options, recipes.parts(recipe)) == ([], {}, [])
    assert "not used" in notes[0]


def test_sections_of_methods_that_do_not_run_are_ignored_in_files_with_a_note(tmp_path: Path) -> None:
    notes: list[str] = []
    path = written(tmp_path, "method: m_free\nm_free: {weight: 2}\nm_hard: {whatever: 1}\n")
    recipes.load(path, note=notes.append)
    assert len(notes) == 1
    assert "'m_hard'" in notes[0]
    assert recipes.load(path, ["method=m_self"]).options.keys() == {"m_self"}


def test_self_distillation_has_no_teacher_and_refuses_one() -> None:
    assert load("method=m_self").teacher == []
    with pytest.raises(InputError, match="takes no teacher; the recipe names 1"):
        load("method=m_self", "teacher=a")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["method=m_one", "teacher=[a, b]"], "takes 1 teacher; the recipe names 2"),
        (["method=m_pair"], "takes 2 teachers; the recipe names 0"),
        (["method=m_free+m_one", "teacher=[a, b]"], "takes 1 teacher; the recipe names 2"),
        (["method=m_one+m_pair"], r"different numbers of teachers \(m_one 1 teacher, m_pair 2 teachers\)"),
        (["method=m_self+m_free"], "different numbers of teachers"),
        (["method=m_online+m_free"], r"'m_online' trains its teachers along \(online\)"),
        (["method=m_free+none"], "joins no other"),
        (["method=m_free+m_free"], "'m_free' is there twice"),
        (["method=m_free+"], "a name is missing"),
        (["method=m_fre"], r"no method 'm_fre'.*'m_free'"),
        (["method=[a]"], r"no method '\[a\]'"),
        (["method=m_hard", "data.mixup=0.2"], r"'m_hard' needs one class a sample.*data\.mixup=0\.2"),
        (["method=m_free+m_hard", "data.cutmix=1"], r"data\.cutmix=1\.0 cannot be used"),
    ],
)
def test_rules_between_methods_and_the_rest(arguments: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        load(*arguments)


def test_composition_takes_the_number_of_teachers_that_fits_all() -> None:
    assert len(load("method=m_free+m_pair", "teacher=[a, b]").teacher) == 2


# --- writing --------------------------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1).filter(
    lambda text: "${" not in text and text != "???" and text.strip()
)


@settings(max_examples=10, deadline=None)
@given(
    name=TEXTS
    | st.sampled_from(["no", "off", "1e3", "007", "null", "~", "1:30", "2024-01-01", "# x", "[", "<<", "=", "1_0"]),
    lr=st.floats(0, 1e6, allow_nan=False, allow_subnormal=False),  # runs flush them to zero
    seed=st.integers(0, 2**63),
    excluded=st.lists(TEXTS | st.sampled_from(["no", "1.0", "001", "true"])),
)
def test_a_written_recipe_reads_back_equal(name: str, lr: float, seed: int, excluded: list[str]) -> None:
    recipe = recipes.from_dict(
        {
            "method": "kd",
            "teacher": [{"model": name}, {"model": "b", "model_args": {"k": [1, 0.5, None, True, name]}}],
            "data": {"name": name, "exclude_classes": excluded},
            "optim.lr": lr,
            "train.seed": seed,
        }
    )
    text = recipes.to_yaml(recipe, header="kdtool run --resume runs/x")
    assert text.startswith("# kdtool run --resume runs/x\n")
    assert recipes.from_dict(recipe_file.parse(text, "written")) == recipe


@pytest.mark.parametrize(
    "arguments", [[], ["method=none"], ["method=m_self"], ["method=m_free", "m_free.branches=[{}]"]]
)
def test_any_kind_of_recipe_reads_back_equal(tmp_path: Path, arguments: list[str]) -> None:
    recipe = load(*arguments)
    assert load(path=written(tmp_path, recipes.to_yaml(recipe))) == recipe


def test_one_teacher_is_written_as_a_section() -> None:
    plain = recipes.to_dict(load("method=m_free"))
    assert plain["teacher"]["model"] == "resnet50"
    assert plain["m_free"]["weight"] == 1.0
    assert "options" not in plain
