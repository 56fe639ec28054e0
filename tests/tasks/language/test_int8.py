"""Runs whose teacher is kept in 8 bits: it teaches nearly the same, and no cache of another arithmetic is its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load

pytest.importorskip("transformers")
pytest.importorskip("torchao")

from tests.running import call
from tests.tasks.language.small import chats
from tests.tasks.language.test_run import SMALL, distil


@pytest.mark.slow
@pytest.mark.usefixtures("own_home")  # what others kept might be nearer
def test_an_int8_teacher_teaches_nearly_the_same_and_its_outputs_are_told_apart(tmp_path: Path) -> None:
    data = chats(tmp_path / "chats.jsonl", 24)
    more = ["--method", "kd", "data.views=1"]
    exact = distil(tmp_path / "exact", data, *more, epochs=1)
    kept = distil(tmp_path / "kept", data, *more, "teacher.precision=int8", "cache.mode=build", epochs=1)
    assert kept.file() != exact.file()
    one, other = load(kept.file()), load(exact.file())
    for name, tensor in one.items():
        assert (tensor - other[name]).norm() < 0.05 * tensor.norm(), name
    done = call("run", *SMALL, *more, "--data", data, "--epochs", 1, "teacher.train.epochs=1", "cache.mode=require",
                "--out", tmp_path / "other")  # fmt: skip
    assert done.code == 2
    assert "teacher.precision is int8, wanted fp32" in done.err
