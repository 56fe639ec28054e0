"""Further views of a sample beside the usual one: what they are, and that kept outputs of a teacher serve them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import kdtool
from kdtool.errors import InputError
from kdtool.events import Reporter
from kdtool.tasks.task import Reading
from kdtool.testing.material import CPU, material


def first(task: str, *views: str) -> Any:
    found = material(task)
    student, _ = found.networks(found.kinds[0], [], 0, False)
    reading = Reading(8, 0, CPU, True, channels_last=False, views=views)
    return next(iter(found.task.batches(found.data, found.split, found.recipe, [student], reading).epoch(0))).inputs


def test_turns_are_those_of_the_usual_view() -> None:
    inputs = first("images", "rotated90", "rotated180", "rotated270")
    turned = inputs.further
    assert torch.equal(torch.rot90(inputs.own, 1, (2, 3)), turned["rotated90"])
    assert torch.equal(torch.rot90(turned["rotated90"], 1, (2, 3)), turned["rotated180"])
    assert torch.equal(torch.rot90(turned["rotated270"], 1, (2, 3)), inputs.own)


def test_a_strong_text_has_words_hidden_replaced_or_left_out() -> None:
    inputs = first("text", "strong")
    ((key, own),) = inputs.own.items()
    strong = inputs.further["strong"][key]
    assert not torch.equal(own["ids"], strong["ids"]) if own["ids"].shape == strong["ids"].shape else True
    assert strong["mask"].sum() <= own["mask"].sum() + len(own["ids"])


class Notes(Reporter):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


RECIPE = {
    "method": "mlkd", "data.name": "digits", "data.labels_per_class": 4, "train.epochs": 1, "train.batch_size": 20,
    "teacher.model": "test_resnet", "teacher.weights": "scratch", "teacher.train.epochs": 1, "teacher.check": "off",
    "student.model": "test_resnet", "student.weights": "scratch", "data.views": 1, "cache.dtype": "fp32",
}  # fmt: skip


@pytest.mark.slow
def test_a_teacher_s_outputs_of_further_views_are_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDTOOL_HOME", str(tmp_path / "home"))
    weights, said = [], Notes()
    for mode in ("off", "build", "require"):
        kdtool.run({**RECIPE, "cache.mode": mode, "out": str(tmp_path / mode)}, reporter=said)
        weights.append((tmp_path / mode / "student" / "model.safetensors").read_bytes())
    assert weights[1] == weights[2]
    assert not [note for note in said.notes if "runs live" in note]
    assert any("strong/logits" in note for note in said.notes)
    # Another draw is another view, and another cache.
    with pytest.raises(InputError, match="strong"):
        kdtool.run({**RECIPE, "cache.mode": "require", "data.strong": "rand-m1-n1", "out": str(tmp_path / "other")})


def test_a_view_that_a_task_has_not_is_refused() -> None:
    with pytest.raises(InputError, match=r"'sskd' sees each sample in the view 'rotated90'.*'text'.*it has: strong"):
        kdtool.run(
            {"task": "text", "method": "sskd", "teacher.model": "bilstm", "student.model": "bilstm"}, dry_run=True
        )
