"""What a run tells of its images before it trains: classes, what cannot be read, and what is there twice."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdtool.errors import InputError
from kdtool.tasks.common.data_report import DataReport
from kdtool.tasks.images.data.look import look
from kdtool.tasks.images.data.open import open_data
from kdtool.tasks.images.options import Data
from tests.running import call, write_images
from tests.tasks.images.data.pictures import write_class_folders


def _report(folder: Path, **options: object) -> DataReport:
    cfg = Data(name=str(folder), **{"val_fraction": 0.0, "look": 60.0, **options})  # type: ignore[arg-type]
    return look(open_data(cfg), cfg)


def _scene(number: int, size: tuple[int, int] = (96, 80)) -> Image.Image:
    """Return a picture with large shapes, as photos have; each number another."""
    draw = np.random.Generator(np.random.Philox(number))
    coarse = Image.fromarray(draw.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


def _write_scenes(folder: Path, numbers: range, kind: str = "png") -> Path:
    for number in numbers:
        place = folder / ("odd" if number % 2 else "even")
        place.mkdir(parents=True, exist_ok=True)
        _scene(number).save(place / f"{number}.{kind}")
    return folder


def test_classes_and_where_splits_are_from(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "Train", ("ant", "bee"), each=12)
    write_class_folders(tmp_path / "Train", ("cow",), each=4, first=100)
    write_class_folders(tmp_path / "val", ("ant", "bee", "cow"), each=2, first=200)
    report = _report(tmp_path)
    assert report.parts["training"].counts == [12, 12, 4]
    assert report.parts["test"].counts == [2, 2, 2]
    assert "training 28" in report.sentences()[0]
    assert str(tmp_path / "Train") in report.sentences()[0]
    assert "classes in training: ant 12, bee 12, cow 4" in report.sentences()
    assert report.warnings == []


def test_uneven_classes_are_said(tmp_path: Path) -> None:
    write_class_folders(tmp_path, ("many",), each=70)
    write_class_folders(tmp_path, ("rare",), each=3, first=500)
    (warning,) = _report(tmp_path).warnings
    assert "2 (rare) to 56 (many)" in warning
    assert "always answering the most frequent class is 93.3 % top-1 on test" in warning
    assert "macro recall" in warning


@pytest.mark.parametrize("seconds", [60.0, 0.0])
def test_all_that_cannot_be_read_is_named_at_once(tmp_path: Path, seconds: float) -> None:
    write_class_folders(tmp_path, each=40)
    broken = ["ant/0001.png", "bee/0041.png", "bee/0045.png", "cow/0090.png", "cow/0119.png"]
    for name in broken:
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:70])
    if not seconds:
        assert not any("cannot be read" in warning for warning in _report(tmp_path, look=0.0, max_bad=0.05).warnings)
        return
    report = _report(tmp_path, max_bad=0.05)
    assert len(report.unreadable) == 5
    assert all(any(name in warning for warning in report.warnings) for name in broken)
    with pytest.raises(InputError) as refused:
        _report(tmp_path, max_bad=0.0)
    data = open_data(Data(name=str(tmp_path), val_fraction=0.0, max_bad=0.05))
    rows = set(data.train.rows.tolist())
    trained = [name for name in broken if int(name[-8:-4]) in rows]
    assert all(name in str(refused.value) for name in trained)


def test_images_of_another_split_are_found_whatever_their_files(tmp_path: Path) -> None:
    _write_scenes(tmp_path / "train", range(20))
    _write_scenes(tmp_path / "test", range(100, 110))
    shutil.copy(tmp_path / "train" / "odd" / "3.png", tmp_path / "test" / "odd" / "copy.png")
    _scene(4).save(tmp_path / "test" / "even" / "again.bmp")
    report = _report(tmp_path)
    assert report.warnings == ["2 of 12 test images stand in the training set, too"]


def test_a_split_that_is_a_copy_of_another_is_said(tmp_path: Path) -> None:
    _write_scenes(tmp_path / "train", range(12), "jpg")
    shutil.copytree(tmp_path / "train", tmp_path / "val")
    assert "12 of 12 test images stand in the training set, too" in _report(tmp_path).warnings


def test_nearly_equal_images_are_found_and_others_are_not(tmp_path: Path) -> None:
    _write_scenes(tmp_path / "train", range(30))
    _write_scenes(tmp_path / "test", range(100, 120))
    assert _report(tmp_path).warnings == []
    _scene(7).save(tmp_path / "test" / "odd" / "again.jpg", quality=60)
    _scene(8, (64, 56)).save(tmp_path / "test" / "even" / "smaller.png")
    (warning,) = _report(tmp_path).warnings
    assert warning.startswith("2 of 22 test images nearly equal training images, such as ")
    assert ("7.png" in warning) != ("8.png" in warning)


def test_small_images_of_few_shapes_are_not_compared() -> None:
    cfg = Data(look=60.0)
    report = look(open_data(cfg), cfg)
    assert report.warnings == []
    assert sum(part.total for part in report.parts.values()) == 1797


def test_one_image_in_two_classes_is_said(tmp_path: Path) -> None:
    _write_scenes(tmp_path / "train", range(20))
    _write_scenes(tmp_path / "test", range(100, 110))
    shutil.copy(tmp_path / "train" / "odd" / "3.png", tmp_path / "train" / "even" / "three.png")
    (warning,) = _report(tmp_path).warnings
    assert "1 training image stands in several classes" in warning
    assert "odd/3.png" in warning
    assert "even/three.png" in warning


def test_what_there_was_no_time_for_is_said(tmp_path: Path) -> None:
    report = _report(write_class_folders(tmp_path, each=50), look=1e-6)
    assert any("looked at 64 of 150 images" in note and "data.look" in note for note in report.notes)


def test_a_run_tells_it_before_it_trains(tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", {"ant": 40, "bee": 3})
    (photos / "ant" / "notes.txt").write_text("no image")
    done = call("run", "--data", photos, "--method", "none", "--student", "test_resnet", "--epochs", "1", "--device",
                "cpu", "--image-size", "32", "--out", tmp_path / "run")  # fmt: skip
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    begins = next(at for at, line in enumerate(lines) if "stage" in line and "epoch" in line)
    for words in ("classes in training: ant", "warning: the classes are uneven", "held out of training"):
        assert any(words in line for line in lines[:begins]), (words, done.out)
    assert sum("1 .txt" in line for line in lines[:begins]) == 1
    dry = call("run", "--data", photos, "--method", "none", "--student", "test_resnet", "--device", "cpu", "--dry-run")
    assert dry.out.index("class ") < dry.out.index("Training takes about") < dry.out.index("data:\n")
