"""A batch norm is never left with one sample in the middle of a run: such batches are refused before."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kdtool.engine.job import Loaded
from kdtool.engine.smallest import smallest_part
from tests.running import CHEAP, call


@pytest.mark.parametrize("batch", range(1, 14))
@pytest.mark.parametrize("pieces", [1, 2, 3, 4, 7])
def test_the_smallest_part_is_that_of_the_split(batch: int, pieces: int) -> None:
    whole = Loaded(torch.zeros(batch, 2), torch.zeros(batch), torch.arange(batch), 0)
    parts = whole.split(min(pieces, batch))
    assert smallest_part(batch, 1, pieces) == min(part.samples for part in parts)
    assert smallest_part(3 * batch, 3, pieces) == min(part.samples for part in parts)


BASE = ["run", "--student", "test_resnet", "--teacher", "test_resnet", "--epochs", "1"]
ONE = [each for each in CHEAP if "teacher.train" not in each]
VIT = ["--student", "test_vit"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--batch-size", "1"], "train.batch_size=1 leaves a part of one sample"),
        (["--batch-size", "5", "train.accumulate=4"], "train.batch_size=5, shared by train.accumulate=4,"),
        (["teacher.train.batch_size=1"], "teacher.train.batch_size=1 leaves"),
        (["--batch-size", "1", "--method", "dml", *VIT], "batch norms of test_resnet"),
    ],
)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_part_of_one_sample_is_refused_before_training(
    tmp_path: Path, more: list[str], said: str, dry: list[str]
) -> None:
    done = call(*BASE, *ONE, "data.image_size=32", *more, *dry, "--out", tmp_path / "run")
    assert done.code == 2, done.err
    assert said in done.err
    assert "Choose a multiple of" in done.err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    "more", [["--batch-size", "1", *VIT], ["--batch-size", "1", "train.freeze_bn=true"], ["--batch-size", "6"]]
)
def test_what_learns_from_one_sample_is_not_refused(tmp_path: Path, more: list[str]) -> None:
    done = call(*BASE, *ONE, "data.image_size=32", *more, "--dry-run", "--out", tmp_path / "run")
    assert done.code == 0, done.err
