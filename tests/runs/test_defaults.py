"""What networks settle that a recipe leaves open: learning rates, and how long a teacher is trained."""

from __future__ import annotations

import pytest

from kdtool.recipe import load as recipes
from kdtool.runs.networks import with_rates
from tests.tasks.text.test_networks import network


@pytest.mark.parametrize(
    ("given", "origin", "epochs"),
    [([], "scratch", 20), ([], "pretrained", 8), (["teacher.train.epochs=8"], "scratch", 8)],
)
def test_a_teacher_from_scratch_learns_longer_unless_the_recipe_says(
    given: list[str], origin: str, epochs: int
) -> None:
    recipe = recipes.load(None, given, {"task": "text"})
    teacher = network("transformer-tiny")
    teacher.origin = origin
    settled = with_rates(recipe, network("bilstm"), [teacher])
    assert settled.teacher[0].train.epochs == settled.teacher[0].train.length == epochs
    assert recipe.teacher[0].train.epochs == (epochs if given else None)


def test_of_images_a_teacher_from_scratch_learns_as_long_as_ever() -> None:
    recipe = recipes.load(None, [], {"task": "images"})
    teacher = network("transformer-tiny")
    settled = with_rates(recipe, network("bilstm"), [teacher])
    assert (teacher.origin, settled.teacher[0].train.epochs) == ("scratch", 8)


@pytest.mark.parametrize(("task", "rate"), [("images", 3e-4), ("text", 5e-5), ("language", 1e-4)])
def test_trained_weights_are_trained_further_at_their_tasks_rate(task: str, rate: float) -> None:
    recipe = recipes.load(None, [], {"task": task})
    student, teacher = network("bilstm"), network("transformer-tiny")
    student.origin = teacher.origin = "pretrained"
    settled = with_rates(recipe, student, [teacher])
    assert (settled.optim.lr, settled.teacher[0].train.optim.lr) == (rate, rate)
