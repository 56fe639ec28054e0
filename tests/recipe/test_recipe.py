"""Recipes: how file, flags and overrides come together, and what is refused in which words."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdtool.errors import InputError
from kdtool.recipe import load as recipes
from kdtool.recipe import yaml_file as recipe_file
from kdtool.recipe.schema import RESERVED, Recipe, TeacherTrain
from kdtool.tasks.images.options import Teacher

PLUGIN = """
from __future__ import annotations
from dataclasses import dataclass, field
from typing import Any, Optional, Union
from kdtool import Method, option
@dataclass
class Branch:
    depth: int = option(1, "how deep", min=1, max=4)
    name: str = option("x", "which")
class Free(Method):
    api = 1
    teachers = (1, None)
    @dataclass
    class Config:
        weight: float = option(1.0, "a weight", min=0.0, max=2.0)
        mode: str = option("sum", "how", choices=("sum", "mean"))
        layer: Union[int, float, str] = option(0.5, "where")
        layers: list[Any] = option([0, 0.5], "where, several")
        branches: list[Branch] = option([], "side branches")
        inner: Branch = option(Branch, "one branch")
        maybe: Optional[int] = option(None, "perhaps", min=3)
class Self(Method):
    api = 1
    teachers = (0, 0)
class Pair(Method):
    api = 1
    teachers = (2, 2)
class One(Method):
    api = 1
class Online(Method):
    api = 1
    online = True
class Hard(Method):
    api = 1
    hard_labels = True
class Whole(Method):
    api = 1
    batch = "global"
"""
CLASSES = {"m_free": "Free", "m_self": "Self", "m_pair": "Pair", "m_one": "One"}
CLASSES |= {"m_online": "Online", "m_hard": "Hard", "m_whole": "Whole"}


@pytest.fixture(autouse=True)
def _methods(install: Callable[..., None]) -> None:
    install("test-methods", {name: f"recipe_plugin:{cls}" for name, cls in CLASSES.items()}, recipe_plugin=PLUGIN)


def load(*overrides: str, path: Path | None = None, **flags: Any) -> Recipe:
    named = {key.replace("__", "."): value for key, value in flags.items()}
    return recipes.load(path, overrides, named)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


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


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.epoch=3", r"unknown key 'train\.epoch'.*'train\.epochs'"),
        ("epochs=3", r"unknown key 'epochs'.*'train\.epochs'"),
        ("lr=3", r"'optim\.lr'"),
        ("trian.epochs=3", r"'train\.epochs'"),
        ("teacher.modell=x", r"'teacher.0.modell'.*'teacher\.model'"),
        ("teacher.train.optm.lr=1", r"teacher\.train\.optim"),
        ("teacher.1.model=x", r"teacher\.1\.model: there is no number '1' in a list of 1"),
        ("data.crop_scale.7=1", "unknown key|expected a list"),
        ("kd.temprature=8", r"'kd\.temperature'"),
        ("temperature=8", r"'kd\.temperature'"),
        ("fitnets.hint_epochs=5", r"'fitnets\.hint_epochs'.*does not use.*its method is kd"),
        ("options.kd=1", "unknown key 'options.kd'"),
        ("train.epochs=abc", r"train\.epochs: expected a whole number, at least 1, got the text 'abc'"),
        ("train.epochs=1.5", r"train\.epochs: expected a whole number.*got 1\.5"),
        ("train.epochs=null", r"train\.epochs: expected a whole number.*nothing"),
        ("train.epochs=[1]", r"train\.epochs: expected a whole number.*list \[1\]"),
        ("train.epochs=0", r"train\.epochs=0 is out of range: expected at least 1"),
        ("kd.alpha=1.5", r"kd\.alpha=1\.5 is out of range: expected from 0 to 1"),
        ("optim.lr=nan", "not a finite number"),
        ("optim.lr=inf", "not a finite number"),
        ("optim.lr=-1", "expected at least 0"),
        ("train.precision=fp17", r"Valid: fp32, bf16, fp16, fp64\. Did you mean 'fp16'"),
        ("train.precision=true", "Valid: fp32"),
        ("baseline=perhaps", "expected true or false"),
        ("train=3", "train is a section"),
        ("train.epochs.more=3", r"train\.epochs: expected a whole number"),
        ("train.device=gpu", r"train\.device=gpu.*cuda:N"),
        ("train.accumulate=65", r"train\.accumulate=65 is more than train\.batch_size=64"),
        ("data.crop_scale=[1, 0.5]", "the smaller first"),
        ("data.crop_scale=[0.5]", "two numbers"),
        ("data.crop_scale=[0.5, 2]", r"data\.crop_scale\.1=2\.0 is out of range"),
        ("data.mean=[0.5]", "three numbers"),
        ("data.mean=x", r"data\.mean: expected a list of numbers or null"),
        ("data.name= ", r"data\.name is empty"),
        ("student.model=", "has no value"),
        ("data.exclude_classes=[true]", r"expected a list of texts.*\[True\]"),
        ("data.name=${oc.env:HOME}", "plain values only"),
        ("data.name=???", "plain values only"),
        ("data.name=caf\udce9", "no text in UTF-8"),
        ("optim.options={a: '${x}'}", "plain values only"),
        ("optim.options=3", r"optim\.options: expected a mapping"),
        ("nonsense", "no override; expected key=value"),
        ("=3", "no override"),
        ("out=", "out= has no value; write out=null"),
        *((f"{name}.x=1", f"{name!r} is reserved") for name in RESERVED),
    ],
)
def test_bad_overrides(override: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        load(override)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("m_free.weight=3", r"m_free\.weight=3\.0 is out of range: expected from 0 to 2 \(a weight\)"),
        ("m_free.mode=prod", r"m_free\.mode=prod is not valid\. Valid: sum, mean"),
        ("m_free.branches=[{depth: 9}]", r"m_free\.branches\.0\.depth=9 is out of range"),
        ("m_free.branches=[{}, {deph: 9}]", r"'m_free\.branches\.1\.deph'.*'m_free\.branches\.depth'"),
        ("m_free.branches=[{depth: x}]", r"m_free\.branches\.0\.depth: expected a whole number, from 1 to 4"),
        ("m_free.branches={depth: 1}", r"m_free\.branches is a list of sections"),
        ("m_free.branches=[3]", r"m_free\.branches\.0 is a section"),
        ("m_free.inner.depth=0", r"m_free\.inner\.depth=0 is out of range"),
        ("m_free.inner.dept=2", r"'m_free\.inner\.depth'"),
        ("m_free.maybe=2", "expected at least 3"),
        ("m_free.layer=[1]", r"expected a whole number, a number or text, got the list \[1\]"),
        ("m_free=3", "m_free is a section"),
    ],
)
def test_bad_options_of_a_method(override: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        load("method=m_free", override)


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{after}: &{after} [{','.join(['*' + before] * 10)}]\n" for before, after in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train: {epochs: 1\n", "line 2.*not valid YAML"),
        ("just a line", "holds no recipe"),
        ("- a\n- b\n", "got list"),
        ("train: {epochs: 1}\ntrain: {seed: 2}\n", "the key 'train' is there twice"),
        ("1: 2\n", "the key 1 is no text"),
        ("!!python/object/apply:os.system [true]", "not valid YAML"),
        ("a: !custom 3\n", "not valid YAML"),
        ("--- {}\n--- {}\n", "not valid YAML"),
        ("data: {name: '${oc.env:HOME}'}\n", "plain values only"),
        (BOMB, "too large"),
        ("a: &a [*a]\n", "too deeply nested"),
        ("[" * 5000, "nested too deeply|not valid YAML"),
        ("train: 3\n", "train is a section"),
        ("teacher: 3\n", r"teacher\.0 is a section"),
        ("method: 3\n", "expected a name"),
        ("trian: {epochs: 3}\n", "unknown key 'trian'.*'train'"),
        ("eval: {x: 1}\n", "reserved"),
        ("method: null\ntrain: {epoch: 1}\n", "'train.epochs'"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=re.compile(words, re.DOTALL)):
        load(path=written(tmp_path, text))


def test_files_that_cannot_be_recipes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        load(path=tmp_path)
    with pytest.raises(InputError, match=r"no recipe 'digits/mobilenetv3_from_resnet50_kt\.yaml'.*_kd\.yaml"):
        recipes.load("digits/mobilenetv3_from_resnet50_kt.yaml")
    binary = tmp_path / "weights.pth"
    binary.write_bytes(b"\x80\x02\xff\xfe")
    with pytest.raises(InputError, match="no text in UTF-8"):
        load(path=binary)
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (recipe_file.MAX_BYTES + 1))
    with pytest.raises(InputError, match="larger than"):
        load(path=large)


def test_core_keys_are_checked_before_any_plugin_is_imported(install: Callable[..., None]) -> None:
    install("slow", {"m_slow": "slow_plugin:X"}, slow_plugin="raise RuntimeError('imported too early')")
    with pytest.raises(InputError, match=r"train\.epochs"):
        load("method=m_slow", "train.epochs=0")


# --- writing --------------------------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1).filter(
    lambda text: "${" not in text and text != "???" and text.strip()
)


@settings(max_examples=30, deadline=None)
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
