"""What reading a folder costs: the figures that there are and that they are of the same files, never how fast."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.running import call, write_images

QUICK = ["--device", "cpu", "--batch-size", "8", "--pairs", "2", "data.image_size=32"]


def figures(folder: Path, *more: str) -> dict[str, object]:
    done = call("bench", "--data", folder, *QUICK, *more, "--json")
    assert done.code == 0, done.err
    found: dict[str, object] = json.loads(done.out)["reading"]
    return found


def check_rows(found: dict[str, object]) -> None:
    parts: list[dict[str, object]] = found["parts"]  # type: ignore[assignment]
    loaders: list[dict[str, object]] = found["loaders"]  # type: ignore[assignment]
    assert [(row["part"], row["by"]) for row in parts] == [
        ("file", "kdtool"), ("decode", "kdtool"), ("decode", "timm"), ("decode", "torchvision"),
        ("transform", "kdtool"), ("transform", "timm"), ("transfer", "kdtool"),
    ]  # fmt: skip
    assert [(row["part"], row["by"]) for row in loaders] == [("loader", "kdtool"), ("loader", "timm")]
    for row in (*parts, *loaders):
        assert row["images_per_s"] > 0  # type: ignore[operator]
        assert (row["mb_per_s"] is None) == (row["part"] == "transform")
        assert row["mb_per_s"] is None or row["mb_per_s"] > 0  # type: ignore[operator]
        for times in row["against"].values():  # type: ignore[attr-defined]
            low, high = times["interval"]
            assert 0 < low <= times["times"] <= high
    assert set(parts[1]["against"]) == {"timm", "torchvision"}  # type: ignore[call-overload]
    assert set(loaders[0]["against"]) == {"timm"}  # type: ignore[call-overload]


def test_folders_of_classes_and_files_that_not_all_can_read(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", {"ant": 6, "bee": 6})
    (folder / "ant" / "cut.jpg").write_bytes((folder / "ant" / "0.jpg").read_bytes()[:300])
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(folder / "bee" / "scan.tif")  # torchvision reads no TIFF
    found = figures(folder)
    check_rows(found)
    files: dict[str, object] = found["files"]  # type: ignore[assignment]
    assert files["count"] == 14
    assert files["used"] == 12
    unreadable: dict[str, int] = files["unreadable"]  # type: ignore[assignment]
    assert unreadable["kdtool"] == 1
    assert unreadable["torchvision"] >= 1


def test_a_flat_folder_in_grey_with_whole_crops(tmp_path: Path) -> None:
    folder = write_images(tmp_path, {"all": 5}) / "all"
    found = figures(folder, "data.channels=1", "data.crop=none")
    check_rows(found)
    assert found["files"]["count"] == 5  # type: ignore[index]


@pytest.mark.slow
def test_workers_read_the_same(tmp_path: Path) -> None:
    check_rows(figures(write_images(tmp_path / "photos", {"ant": 9, "bee": 9}), "--workers", "1"))


def test_a_table_for_people(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", {"ant": 6})
    done = call("bench", "--data", folder, *QUICK)
    assert done.code == 0, done.err
    assert "x timm" in done.out
    assert "transfer" in done.out


def test_an_empty_folder_and_none_that_can_be_read(tmp_path: Path) -> None:
    said = call("bench", "--data", tmp_path, *QUICK)
    assert said.code == 2
    assert "holds no images" in said.err
    (tmp_path / "x.jpg").write_bytes(b"none")
    said = call("bench", "--data", tmp_path, *QUICK)
    assert said.code == 2
    assert "none of 1 images can be read" in said.err
