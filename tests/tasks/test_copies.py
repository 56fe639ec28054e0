"""A task's batches go to a card without waiting for it; images' are in images/data/test_loader_copies.py."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from kdtool.engine import tree
from kdtool.recipe import load as recipes
from kdtool.runs.setting import build_setting
from tests.sampling import sampled
from tests.simulated import simulated
from tests.tasks.language.small import LARGER, SIZES, chats
from tests.tasks.text.runs import sentences

EVERY = {"teacher.check": "off", "train.batch_size": 4}


def _recipe(task: str, folder: Path) -> dict[str, Any]:
    own = {
        "text": {"student.model": "bilstm", "teacher.model": "transformer-tiny", "data.vocab_size": 200},
        "language": {"student.model": "llama-tiny", "teacher.model": "llama-tiny", "data.vocab_size": 300,
                     "student.model_args": SIZES, "teacher.model_args": LARGER},
    }  # fmt: skip
    data = sentences(folder / "data.tsv") if task == "text" else chats(folder / "data.jsonl")
    return {**EVERY, **own[task], "task": task, "data.name": str(data), "data.max_length": 64}


@pytest.mark.parametrize("task", sampled(["text", "language"], "language"))
def test_no_batch_waits_on_its_way_to_the_device(task: str, tmp_path: Path) -> None:
    recipe = _recipe(task, tmp_path)
    here = build_setting(recipes.from_dict({**recipe, "train.device": "cpu"})).train_batches.epoch(1)
    with simulated() as device:
        there = build_setting(recipes.from_dict({**recipe, "train.device": "cuda"})).train_batches
        waits = []
        for got, want in zip(there.epoch(1), here, strict=True):
            waits.append({what: count for what, count in device.waits.items() if count and what != "to host"})
            pairs = zip(tree.tensors(got.inputs), tree.tensors(want.inputs), strict=True)
            assert all(ours.is_cuda and torch.equal(ours.cpu(), theirs) for ours, theirs in pairs)
            assert torch.equal(got.labels.cpu(), want.labels)
            assert torch.equal(got.index.cpu(), want.index)
            assert torch.equal(got.positions, want.index)
    assert len(waits) > 3
    assert all(before == after for before, after in pairwise(waits)), waits
