"""A folder outside of any run says which task it is of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdtool.registry import tasks
from kdtool.runs.tasks import task_of
from kdtool.testing.material import material

OWN = [entry.name for entry in tasks.entries() if entry.distribution == "kdtool"]


@pytest.mark.parametrize("name", OWN)
def test_a_students_folder_is_known_by_its_task_alone(name: str, tmp_path: Path) -> None:
    found = material(name)
    for kind in found.kinds:
        built = found.networks(kind, [], 0, False)[0]
        found.task.save(tmp_path / kind, built, built.module.state_dict(), found.data, found.recipe)
        assert task_of(tmp_path / kind).name == name
        assert task_of(f"local-dir:{tmp_path / kind}").name == name


@pytest.mark.parametrize(
    ("architecture", "name"),
    [("BertForSequenceClassification", "text"), ("LlamaForCausalLM", "language"), ("GPT2LMHeadModel", "language")],
)
def test_a_strangers_folder_of_transformers_is_known(architecture: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    assert task_of(tmp_path).name == name
    assert task_of(tmp_path, "images").name == "images"


@pytest.mark.parametrize("config", ["", "[", "[]", '{"architectures": 3}', '{"architectures": null}', "\xff"])
def test_what_says_nothing_is_of_the_default_task(config: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(config.encode("latin-1"))
    for target in (tmp_path, tmp_path / "nothing", "resnet18", "a\0b"):
        assert task_of(target).name == tasks.default()
