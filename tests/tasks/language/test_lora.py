"""Low-rank updates and layers that are computed again: what trains, and what ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from safetensors.torch import load_file

from kdtool.engine.step import as_out
from tests.running import call
from tests.tasks.language.small import TASK, chats, recipe, saved, tokens
from tests.tasks.language.test_networks import batch_of, loss_and_gradient


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with chats and a trained student."""
    folder = tmp_path_factory.mktemp("lora")
    saved(folder / "model", tokens())
    chats(folder / "chats.jsonl")
    return folder


def test_updates_train_and_ship_merged(place: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    out = tmp_path / "run"
    done = call("run", "--task", "language", "--device", "cpu", "--batch-size", "8", "--epochs", "2", "--lr", "0.02",
                "--method", "none", "--student", place / "model", "--data", place / "chats.jsonl", "data.max_length=64",
                "student.lora.rank=2", "--out", out, folder=out)  # fmt: skip
    assert done.code == 0, done.err
    assert "updates of rank 2 train" in done.out
    before, after = (load_file(folder / "model.safetensors") for folder in (place / "model", out / "student"))
    assert before.keys() == after.keys()
    for name, was in before.items():
        change = after[name] - was
        if "proj" in name:
            assert 1 <= torch.linalg.matrix_rank(change, atol=1e-5) <= 2
        else:
            assert not change.any()
    evaluated = call("eval", out, "--json")
    assert evaluated.code == 0, evaluated.err
    import json

    again = json.loads(evaluated.out)["metrics"]["perplexity"]
    assert again == pytest.approx(done.result["test"]["student"]["perplexity"], rel=1e-5)


def test_a_student_from_scratch_takes_no_updates(place: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    done = call("run", "--task", "language", "--data", place / "chats.jsonl", "student.lora.rank=2", "--out",
                tmp_path / "run")  # fmt: skip
    assert done.code == 2
    assert "starts from scratch" in done.err


def test_saved_updates_open_again(place: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    wanted = recipe(place / "chats.jsonl", student__model=str(place / "model"), student__model_args={},
                    student__lora__rank=2)  # fmt: skip
    data = TASK.open(wanted)
    one, other = TASK.student(wanted, data), TASK.student(wanted, data)
    with torch.no_grad():
        for parameter in one.module.parameters():
            parameter.add_(0.01)
    TASK.save(tmp_path, one, one.module.state_dict(), data, wanted)
    TASK.load(other, tmp_path)
    found = [as_out(each.tapped().eval()(one.dry_inputs(2)), lambda x: x).logits for each in (one, other)]
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


def test_layers_that_are_computed_again_give_the_same_gradient(place: Path) -> None:
    given: dict[str, Any] = {"student__model": str(place / "model"), "student__model_args": {}}
    found = []
    for again in (False, True):
        wanted = recipe(place / "chats.jsonl", **given, student__checkpointing=again)
        data = TASK.open(wanted)
        student = TASK.student(wanted, data)
        network = student.tapped({"deep": -1}).double().train()
        counts = []
        student.module.model.layers[0].self_attn.register_forward_hook(lambda *_, counts=counts: counts.append(1))
        found.append(loss_and_gradient(network, batch_of(wanted, data, student)))
        assert len(counts) == 1 + again
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
