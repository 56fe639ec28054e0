"""Kept teachers that were damaged: said, trained again, and the same as before."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdtool.runs.teachers import is_kept
from tests.running import CHEAP, TWINS, call

ONCE = [*TWINS, *CHEAP, "--method", "kd", "--epochs", "1", "--batch-size", "32", "teacher.train.epochs=1"]


@pytest.mark.usefixtures("own_home")
def test_a_damaged_teacher_is_trained_again(tmp_path: Path) -> None:
    whole = call("run", *ONCE, "--out", tmp_path / "whole", folder=tmp_path / "whole")
    assert whole.code == 0, whole.err
    (kept,) = (tmp_path / "home" / "teachers").iterdir()
    good = (kept / "model.safetensors").read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    note = (kept / "teacher.json").read_bytes()
    damage = [("teacher.json", b"{"), ("teacher.json", b"[]"), ("model.safetensors", good[:-9])]
    for name, content in [*damage, ("model.safetensors", bytes(flipped))]:
        (kept / "model.safetensors").write_bytes(good)
        (kept / "teacher.json").write_bytes(note)
        assert is_kept(kept, pytest.fail)
        (kept / name).write_bytes(content)
        said: list[str] = []
        assert not is_kept(kept, said.append)
        assert f"the teacher kept in {kept} is damaged" in said[0]
    done = call("run", *ONCE, "--out", tmp_path / "again", folder=tmp_path / "again")
    assert done.code == 0, done.err
    assert "is damaged (model.safetensors is not what was written), and is trained again" in done.out + done.err
    assert (kept / "model.safetensors").read_bytes() == good
    assert done.file() == whole.file()
