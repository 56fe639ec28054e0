"""A teacher's kept outputs, a row for each token that is learnt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from kdtool.cache import build as building
from tests.running import call
from tests.tasks.language.small import chats
from tests.tasks.language.test_run import SMALL, distil


def test_a_replayed_run_is_the_live_one_however_its_shards_are_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = chats(tmp_path / "chats.jsonl")
    live = distil(tmp_path / "live", data, "data.views=1", epochs=1)
    monkeypatch.setattr(building, "ROWS", 20)
    kept = ["data.views=1", "cache.mode=build", "cache.dtype=fp32", "cache.shard_rows=7"]
    first = distil(tmp_path / "first", data, *kept, epochs=1)
    assert "outputs replayed from" in first.out
    again = distil(tmp_path / "again", data, *kept, "cache.mode=require", "--method", "dkd", epochs=1)
    assert "outputs replayed from" in again.out
    for one, other in ((live, first),):
        assert one.result["test"]["student"]["nll"] == pytest.approx(other.result["test"]["student"]["nll"], rel=1e-5)
    found = call("cache", "verify")
    assert found.code == 0, found.err


def test_forwards_hold_no_more_rows_than_may_be_there_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "ROWS", 10)
    monkeypatch.setattr(building, "BATCH", 3)

    class Batches:
        offsets = np.array([0, 4, 8, 12, 30, 31, 32, 33, 34])

    source = building.Source.__new__(building.Source)
    source.batches = Batches()
    parts = source._forwards(torch.arange(8))
    assert [part.tolist() for part in parts] == [[0, 1], [2], [3], [4, 5, 6], [7]]


def test_its_size_is_said_in_rows(tmp_path: Path) -> None:
    data = chats(tmp_path / "chats.jsonl")
    done = call("cache", "build", *SMALL, "--data", data, "teacher.train.epochs=1", "data.views=1", "cache.top_k=8",
                "--dry-run", "--json")  # fmt: skip
    assert done.code == 0, done.err
    import json

    from tests.tasks.language.small import TASK, recipe

    opened = TASK.open(recipe(data))
    (about,) = json.loads(done.out)
    assert about["bytes"] == opened.train.offsets[-1] * (4 + 8 * 2 + 8 * 2)
