"""Checkpoints: what comes back, what stays, and that no damage goes unseen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdtool.engine.checkpoint import FORMAT, IN_PARTS, checkpoints, load_checkpoint, load_newest, save_checkpoint
from kdtool.errors import InputError, RunError


def state(seed: int, size: int = 2000) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(7, generator=generator)
    return {
        "weights": {"a": torch.randn(size, generator=generator), "half": torch.ones(3, dtype=torch.bfloat16)},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0), "m": shared}, 1: {"m": shared}}, "groups": [[0, 1]]},
        "number": seed,
        "nothing": None,
        "text": "é",
    }


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(equal(*pair) for pair in zip(one, other, strict=True))
    return bool(one == other)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A folder with two checkpoints of about 30 KiB in all."""
    for number in (1, 2):
        save_checkpoint(tmp_path / "checkpoints", f"step-{number}", state(number), keep=2)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 200 * 1024
    return tmp_path / "checkpoints"


def test_what_was_saved_comes_back(two: Path) -> None:
    assert equal(load_checkpoint(two / "step-1"), state(1))
    found, passed_over = load_newest(two)
    assert equal(found, state(2))
    assert passed_over == []
    assert sorted(path.name for path in (two / "step-2").iterdir()) == [
        "manifest.json", "state.json", "tensors.safetensors",
    ]  # fmt: skip
    manifest = json.loads((two / "step-2" / "manifest.json").read_text())
    assert manifest["format"] == FORMAT
    assert manifest["versions"]["torch"] == torch.__version__


def test_the_newest_and_the_best_stay(tmp_path: Path) -> None:
    for number in range(1, 7):
        save_checkpoint(tmp_path, f"step-{number}", state(number), keep=2, best=number in (2, 3))
    assert [path.name for path in checkpoints(tmp_path)] == ["step-6", "step-5", "step-3"]
    save_checkpoint(tmp_path, "step-7", state(7), keep=2, best=True)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-7", "step-6"]


def test_what_a_killed_save_left_is_cleared(two: Path) -> None:
    (two / ".step-9.tmp").mkdir()
    (two / ".step-9.tmp" / "state.json").write_text("{")
    assert load_newest(two)[0] is not None
    save_checkpoint(two, "step-3", state(3), keep=2)
    assert sorted(path.name for path in two.iterdir()) == ["step-2", "step-3"]


def _passed_over(folder: Path, older: int = 1) -> None:
    found, passed_over = load_newest(folder)
    assert equal(found, state(older))
    assert len(passed_over) == 1
    assert "step-2" in passed_over[0]


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
def test_a_file_cut_short_anywhere_is_named_and_the_one_before_used(two: Path, name: str) -> None:
    file = two / "step-2" / name
    content = file.read_bytes()
    for length in {*range(0, len(content), 1024), len(content) - 1}:
        file.write_bytes(content[:length])
        _passed_over(two)
    file.write_bytes(content + b"\0")
    _passed_over(two)
    file.unlink()
    _passed_over(two)
    file.write_bytes(content)
    assert equal(load_newest(two)[0], state(2))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_is_seen(two: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["tensors.safetensors", "state.json", "manifest.json"]))
    file = two / "step-2" / name
    content = file.read_bytes()
    at, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
    damaged = bytearray(content)
    damaged[at] ^= 1 << bit
    file.write_bytes(damaged)
    try:
        _passed_over(two)
    finally:
        file.write_bytes(content)


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
def test_files_of_another_checkpoint_are_seen(two: Path, name: str) -> None:
    shutil.copy(two / "step-1" / name, two / "step-2" / name)
    _passed_over(two)


def test_a_checkpoint_under_anothers_name_is_seen(two: Path) -> None:
    shutil.rmtree(two / "step-2")
    shutil.copytree(two / "step-1", two / "step-2")
    _passed_over(two)


def test_where_none_is_sound_all_are_named(two: Path) -> None:
    for path in two.rglob("*.json"):
        path.write_bytes(b"[" * 100_000)
    found, passed_over = load_newest(two)
    assert found is None
    assert len(passed_over) == 2


def test_another_format_is_refused_with_a_reason(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdtool.engine.checkpoint.FORMAT", IN_PARTS + 1)
    save_checkpoint(two, "step-3", state(3), keep=3)
    monkeypatch.undo()
    with pytest.raises(InputError, match=rf"step-3 has format {IN_PARTS + 1}, this kdtool .* reads format {FORMAT}"):
        load_newest(two)
    shutil.rmtree(two / "step-3")
    (two / "step-2" / "digests.json").write_text("{}")  # the first format's manifest
    with pytest.raises(InputError, match=r"step-2 has format 1"):
        load_newest(two)


def test_a_pickle_in_the_place_of_tensors_is_not_read(two: Path) -> None:
    torch.save({"a": torch.ones(1)}, two / "step-2" / "tensors.safetensors")
    with pytest.raises(RunError, match="torn or was edited"):
        load_checkpoint(two / "step-2")
