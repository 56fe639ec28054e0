"""Outputs of a teacher that saw files as they were once read do not stand for those of today."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdtool.tasks.images.data.files import FileImages
from tests.running import CHEAP, call, distil, write_images

ASKED = ["--method", "kd", "--epochs", "1", "data.views=1", *CHEAP]


def test_outputs_of_files_read_otherwise_are_refused_by_name(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_images(tmp_path / "data", {"a": 12, "b": 12})
    monkeypatch.setattr(FileImages, "reader", 1)
    distil(tmp_path / "old", "--data", data, *ASKED, "cache.mode=build")
    monkeypatch.undo()
    monkeypatch.setenv("KDTOOL_HOME", str(home))
    said = call("run", "--teacher", "test_resnet", "--student", "test_efficientnet", "--data", data, *ASKED,
                "--device", "cpu", "--out", tmp_path / "new", "cache.mode=require")  # fmt: skip
    assert said.code == 2
    assert "data.reader is 1, wanted 2" in said.err


def test_data_held_as_pixels_keep_theirs(tmp_path: Path, home: Path) -> None:
    distil(tmp_path / "run", "--data", "digits", *ASKED, "cache.mode=build")
    (manifest,) = home.glob("outputs/*/manifest.json")
    assert "reader" not in json.loads(manifest.read_text())["decides"]["data"]
