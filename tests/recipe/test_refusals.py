"""Recipes that are refused, and in which words."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from kdtool.errors import InputError
from kdtool.recipe import load as recipes
from kdtool.recipe import yaml_file as recipe_file
from kdtool.recipe.schema import RESERVED
from tests.recipe.made_up import METHODS, PLUGIN, load, written


@pytest.fixture(autouse=True)
def _methods(install: Callable[..., None]) -> None:
    install("test-methods", METHODS, recipe_plugin=PLUGIN)


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
        ("data.mean=[0.5]", "3 numbers"),
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
        ("export: {x: 1}\n", "reserved"),
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
