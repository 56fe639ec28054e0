"""Disks that are full or read-only: one message with the path and the room, and what was saved before as it was."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from kdtool.engine.checkpoint import checkpoints, load_newest, save_checkpoint
from kdtool.errors import RunError
from kdtool.system.disk import append_line, write_whole
from tests.running import call, distil, start

Mount = Callable[[str], None]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Mount]]:
    """A small disk of its own, and a function that changes its options."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str) -> None:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "kdtool", place], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip(f"cannot mount a tmpfs here: {done.stderr.decode().strip()}")

    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root mounts a tmpfs")
    mount("size=1m")
    yield place, lambda options: mount(f"remount,{options}")
    subprocess.run(["umount", place], check=True)


def state(number: int) -> dict[str, object]:
    return {"weights": torch.full((60_000,), float(number)), "number": number}


def test_a_full_disk_leaves_the_last_checkpoint(disk: tuple[Path, Mount]) -> None:
    folder = disk[0] / "checkpoints"

    def fill() -> None:
        for number in range(10):
            save_checkpoint(folder, f"step-{number}", state(number), keep=10)

    with pytest.raises(
        RunError, match=r"cannot write .*step-\d.*About 24\d,\d+ bytes are needed, \d[\d,]* bytes are free"
    ):
        fill()
    found, passed_over = load_newest(folder)
    assert found is not None
    assert passed_over == []
    assert found["number"] == len(checkpoints(folder)) - 1
    assert not list(folder.glob(".*"))


def test_a_read_only_disk_is_said(disk: tuple[Path, Mount]) -> None:
    place, remount = disk
    write_whole(place / "recipe.yaml", "old")
    remount("ro")
    for write in (
        lambda: write_whole(place / "recipe.yaml", "new"),
        lambda: append_line(place / "metrics.jsonl", "{}"),
        lambda: save_checkpoint(place, "step-1", state(1), keep=2),
    ):
        with pytest.raises(RunError, match="Read-only file system"):
            write()
    assert (place / "recipe.yaml").read_text() == "old"


def test_a_file_that_finds_no_room_leaves_the_old_one(
    disk: tuple[Path, Mount], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = disk[0]
    write_whole(place / "result.json", "old")
    with pytest.raises(RunError, match="no room"):
        write_whole(place / "result.json", b"x" * 2_000_000)
    # Where the free bytes cannot be told, or a quota allows less, the system says it while writing.
    monkeypatch.setattr("kdtool.system.disk.free_bytes", lambda path: None)
    with pytest.raises(RunError, match="No space left on device"):
        write_whole(place / "result.json", b"x" * 2_000_000)
    assert [path.name for path in place.iterdir()] == ["result.json"]
    assert (place / "result.json").read_text() == "old"


def test_a_run_goes_on_once_there_is_room(disk: tuple[Path, Mount], tmp_path: Path) -> None:
    place, remount = disk
    remount("size=12m")
    how = ("--method", "none", "--student", "test_resnet", "--epochs", "4")
    done = start(place / "run", *how)
    assert done.code == 3, done.err + done.out
    assert len([line for line in done.err.splitlines() if line.startswith("error:")]) == 1
    assert "bytes are needed" in done.err
    assert str(place / "run") in done.err
    remount("size=100m")
    again = call("run", "--resume", place / "run", folder=place / "run")
    assert again.code == 0, again.err
    assert "going on from" in again.out
    assert again.file() == distil(tmp_path / "whole", *how).file()
