"""``kdtool recipes``: the list, and copies to change."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from kdtool.recipe import load as recipes
from kdtool.recipe import yaml_file as recipe_file
from tests.cli.conftest import Answer

Kdtool = Callable[..., Answer]
WITH_BASE = "cifar100/resnet20_from_resnet56.yaml"


def test_the_list(kdtool: Kdtool) -> None:
    found = json.loads(kdtool("recipes", "--json").out)
    assert [each["name"] for each in found] == recipe_file.shipped_names()
    assert all(each["about"] for each in found)
    listed = kdtool("recipes").out
    assert all((each["command"] or each["name"]) in listed for each in found)


def test_a_copy_is_the_recipe(kdtool: Kdtool, tmp_path: Path) -> None:
    answer = kdtool("recipes", "copy", WITH_BASE.removesuffix(".yaml"), tmp_path / "mine.yaml")
    assert answer.code == 0, answer.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.yaml", "tian2020.yaml"]
    assert recipes.to_dict(recipes.load(tmp_path / "mine.yaml")) == recipes.to_dict(recipes.load(WITH_BASE))
    assert (tmp_path / "mine.yaml").read_text().startswith(f"# kdtool run {tmp_path / 'mine.yaml'}")


def test_nothing_is_overwritten(kdtool: Kdtool, tmp_path: Path) -> None:
    assert json.loads(kdtool("recipes", "copy", WITH_BASE, tmp_path, "--json").out)[0].endswith("resnet56.yaml")
    (tmp_path / "tian2020.yaml").write_text("# mine")
    answer = kdtool("recipes", "copy", WITH_BASE, tmp_path)
    assert answer.code == 2
    assert "exists already" in answer.err
    assert (tmp_path / "tian2020.yaml").read_text() == "# mine"


def test_an_unknown_recipe_names_the_nearest(kdtool: Kdtool, tmp_path: Path) -> None:
    answer = kdtool("recipes", "copy", "digits/mobilenetv3_from_resnet50", tmp_path)
    assert answer.code == 2
    assert "mobilenetv3_from_resnet50_kd.yaml" in answer.err
    assert kdtool("recipes", "copy", "mnist/mlp_1200", tmp_path / "no-folder").code == 2
    assert list(tmp_path.iterdir()) == []
