"""Recipe files that stand on another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdtool.errors import InputError
from kdtool.recipe import load as recipes
from kdtool.recipe.schema import Recipe

BASE = """
teacher: {model: resnet18, train: {epochs: 7, optim: &sgd {name: momentum, lr: 0.05}}}
student: {model: resnet10t, weights: scratch}
optim: *sgd
train: {epochs: 7, batch_size: 16}
kd: {temperature: 4, alpha: 0.5}
sp: {weight: 10}
at: {weight: 20}
"""


def load(folder: Path, text: str, *overrides: str, notes: list[str] | None = None, **files: str) -> Recipe:
    for name, content in {"own": text, **files}.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return recipes.load(folder / "own.yaml", overrides, note=notes.append if notes is not None else None)


def test_own_values_win_and_sections_merge_key_by_key(tmp_path: Path) -> None:
    text = "base: base.yaml\nteacher: resnet34\nstudent: {weights: auto}\ntrain: {epochs: 3}\nkd: {alpha: 0.75}"
    recipe = load(tmp_path, text, base=BASE)
    teacher = recipe.teacher[0]
    assert (teacher.model, teacher.train.epochs, teacher.train.optim.name) == ("resnet34", 7, "momentum")
    assert (recipe.student.model, recipe.student.weights) == ("resnet10t", "auto")
    assert (recipe.train.epochs, recipe.train.batch_size, recipe.optim.lr) == (3, 16, 0.05)
    assert (recipe.options["kd"].temperature, recipe.options["kd"].alpha) == (4, 0.75)


def test_overrides_come_last_and_touch_one_of_two_aliases(tmp_path: Path) -> None:
    recipe = load(tmp_path, "base: base.yaml\noptim: {lr: 0.2}", "train.epochs=9", base=BASE)
    assert (recipe.train.epochs, recipe.optim.lr, recipe.teacher[0].train.optim.lr) == (9, 0.2, 0.05)
    assert recipe.optim.name == "momentum"


def test_bases_in_a_row_each_beside_the_file_that_names_it(tmp_path: Path) -> None:
    middle = "base: ../base.yaml\ntrain: {epochs: 5, seed: 1}"
    recipe = load(tmp_path, "base: more/middle.yaml\ntrain: {seed: 2}", base=BASE, **{"more/middle": middle})
    assert (recipe.train.epochs, recipe.train.seed, recipe.train.batch_size) == (5, 2, 16)


def test_shipped_recipes_serve_as_bases(tmp_path: Path) -> None:
    recipe = load(tmp_path, "base: digits/mobilenetv3_from_resnet50_kd.yaml\ntrain: {epochs: 2}")
    assert (recipe.student.model, recipe.train.epochs) == ("mobilenetv3", 2)


def test_unused_sections_are_named_in_one_sentence(tmp_path: Path) -> None:
    notes: list[str] = []
    load(tmp_path, "base: base.yaml", base=BASE, notes=notes)
    assert notes == ["the recipe's sections 'sp', 'at' are not used: the run's method is kd."]


def test_the_resolved_recipe_stands_alone(tmp_path: Path) -> None:
    recipe = load(tmp_path, "base: base.yaml", base=BASE)
    (tmp_path / "resolved.yaml").write_text(recipes.to_yaml(recipe))
    (tmp_path / "base.yaml").unlink()
    assert recipes.load(tmp_path / "resolved.yaml") == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: own.yaml", "circle"),
        ("base: 3", "expected the name of a recipe file, got 3"),
        ("base: ''", "expected the name"),
        ("base: absent.yaml", "there is no recipe 'absent.yaml'"),
        ("base: list.yaml", "holds no recipe"),
        ("base: odd.yaml", "unknown key 'trian'"),
    ],
)
def test_bad_bases_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(tmp_path, text, list="[1]", odd="trian: {epochs: 2}")
