"""Image folders: which layouts are read, and which input is refused with a message that says what to do."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdtool.errors import InputError
from kdtool.tasks.images.data.dataset import DataSet
from kdtool.tasks.images.data.open import open_data
from kdtool.tasks.images.options import Data
from tests.tasks.images.data.pictures import picture, write_class_folders


def _open(folder: Path, **options: object) -> DataSet:
    return open_data(Data(name=str(folder), **{"val_fraction": 0.0, **options}))  # type: ignore[arg-type]


def _numbers(data: DataSet, part: str) -> set[str]:
    split = getattr(data, part)
    return {split.images[int(row)].tobytes() for row in split.rows}


def _written(first: int, count: int) -> set[str]:
    return {picture(number).tobytes() for number in range(first, first + count)}


def test_train_and_test_folders_are_the_splits(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "train", each=4)
    write_class_folders(tmp_path / "test", each=2, first=100)
    data = _open(tmp_path)
    assert data.class_names == ["ant", "bee", "cow"]
    assert data.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert data.test.labels.tolist() == [0] * 2 + [1] * 2 + [2] * 2
    assert _numbers(data, "train") == _written(0, 12)
    assert _numbers(data, "test") == _written(100, 6)
    assert data.val is None
    assert data.native_size == (16, 20)
    assert not data.grey


@pytest.mark.parametrize("name", ["val", "validation"])
def test_a_validation_folder_without_a_test_folder_is_the_test_split(tmp_path: Path, name: str) -> None:
    write_class_folders(tmp_path / "train")
    write_class_folders(tmp_path / name, each=2, first=100)
    data = _open(tmp_path, val_fraction=0.2)
    assert _numbers(data, "test") == _written(100, 6)
    assert data.val is not None
    assert len(data.val.rows) == 6
    assert _numbers(data, "val") < _written(0, 30)


def test_of_three_folders_each_is_its_own_split(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "train")
    write_class_folders(tmp_path / "val", each=2, first=100)
    write_class_folders(tmp_path / "test", each=3, first=200)
    data = _open(tmp_path, val_fraction=0.1)
    assert len(data.train.rows) == 30
    assert _numbers(data, "val") == _written(100, 6)
    assert _numbers(data, "test") == _written(200, 9)
    # Without a validation split the last epoch is the result.
    assert _open(tmp_path, val_fraction=0.0).val is None


def test_the_test_split_may_be_named(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "train")
    write_class_folders(tmp_path / "test", each=2, first=100)
    write_class_folders(tmp_path / "wild", each=2, first=200)
    assert _numbers(_open(tmp_path, test_split="wild"), "test") == _written(200, 6)
    with pytest.raises(InputError, match=r"test_split=wilt.*'wild'"):
        _open(tmp_path, test_split="wilt")


def test_one_folder_of_classes_is_split_in_every_class(tmp_path: Path) -> None:
    write_class_folders(tmp_path)
    data = _open(tmp_path, test_fraction=0.3)
    assert np.bincount(data.test.labels).tolist() == [3, 3, 3]
    assert np.bincount(data.train.labels).tolist() == [7, 7, 7]
    assert not set(data.test.rows) & set(data.train.rows)
    again, other = _open(tmp_path, test_fraction=0.3), _open(tmp_path, test_fraction=0.3, split_seed=1)
    assert (again.test.rows == data.test.rows).all()
    assert set(other.test.rows) != set(data.test.rows)


def test_a_train_folder_alone_is_split_too(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "train")
    assert np.bincount(_open(tmp_path).test.labels).tolist() == [2, 2, 2]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    write_class_folders(tmp_path, ("bus", "plane", "train"))
    assert _open(tmp_path).class_names == ["bus", "plane", "train"]


def test_images_may_lie_deeper_and_other_files_are_ignored(tmp_path: Path) -> None:
    write_class_folders(tmp_path)
    shutil.move(tmp_path / "bee" / "0010.png", tmp_path / "bee" / "0010.PNG")
    (tmp_path / "bee" / "more").mkdir()
    picture(900).save(tmp_path / "bee" / "more" / "x.jpeg")
    (tmp_path / "bee" / ".hidden.png").write_bytes(b"no image")
    (tmp_path / "bee" / "notes.txt").write_text("no image")
    (tmp_path / ".cache").mkdir()
    picture(901).save(tmp_path / ".cache" / "x.png")
    (tmp_path / "readme.md").write_text("no class")
    data = _open(tmp_path)
    assert data.class_names == ["ant", "bee", "cow"]
    assert len(data.train.images) == 31


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("L", (200, 200, 200)), ("1", (255, 255, 255)), ("LA", (200, 200, 200)), ("RGBA", (200, 10, 30)),
     ("P", (200, 10, 30)), ("CMYK", (200, 10, 30))],
)  # fmt: skip
def test_every_mode_is_read_in_colour(tmp_path: Path, mode: str, expected: tuple[int, int, int]) -> None:
    write_class_folders(tmp_path)
    colour = (200, 10, 30) if mode in ("RGBA", "P", "CMYK") else (200, 200, 200)
    image = Image.new("RGB", (20, 16), colour)
    image = image.quantize() if mode == "P" else image.convert(mode)
    image.save(tmp_path / "ant" / ("0000.tiff" if mode == "CMYK" else "0000.png"))
    if mode == "CMYK":
        (tmp_path / "ant" / "0000.png").unlink()
    read = _open(tmp_path).train.images[0]
    assert read.mode == ("RGBA" if "A" in mode else "RGB")
    assert read.getpixel((3, 3))[:3] == expected


def test_sixteen_bit_images_keep_their_contrast(tmp_path: Path) -> None:
    write_class_folders(tmp_path)
    levels = np.linspace(0, 65535, 16 * 20).astype(np.uint16).reshape(16, 20)
    Image.fromarray(levels).save(tmp_path / "ant" / "0000.png")
    read = np.asarray(_open(tmp_path).train.images[0])
    assert np.abs(read[..., 0].astype(float) - levels / 257).max() <= 1


def test_images_of_equal_channels_are_grey(tmp_path: Path) -> None:
    assert _open(write_class_folders(tmp_path / "grey", grey=True)).grey
    mixed = write_class_folders(tmp_path / "mixed", ("ant", "bee"), each=30, grey=True)
    write_class_folders(mixed, ("cow",), each=30)
    # The first classes are grey, the last is not: looking at the first images only would miss it.
    assert not _open(mixed).grey


def test_one_large_image_does_not_make_a_folder_of_small_ones_large(tmp_path: Path) -> None:
    write_class_folders(tmp_path)
    picture(1, (400, 300)).save(tmp_path / "ant" / "0000.png")
    assert _open(tmp_path).native_size == (16, 20)


# --- bad input --------------------------------------------------------------------------------------------------------


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        _open(tmp_path / "gone")


@pytest.mark.parametrize("layout", ["nothing", "no classes", "empty classes"])
def test_a_folder_without_images_is_refused(tmp_path: Path, layout: str) -> None:
    if layout == "no classes":
        picture(0).save(tmp_path / "loose.png")
    if layout == "empty classes":
        (tmp_path / "ant").mkdir()
        (tmp_path / "bee").mkdir()
    with pytest.raises(InputError, match=r"no images in class folders.*CLASS/IMAGE"):
        _open(tmp_path)


def test_one_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"one class only.*ant"):
        _open(write_class_folders(tmp_path, ("ant",)))


def test_a_class_folder_without_images_is_refused(tmp_path: Path) -> None:
    write_class_folders(tmp_path)
    (tmp_path / "dog").mkdir()
    with pytest.raises(InputError, match="dog"):
        _open(tmp_path)


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_class_that_train_lacks_is_refused(tmp_path: Path, part: str) -> None:
    write_class_folders(tmp_path / "train")
    write_class_folders(tmp_path / part, ("ant", "bees", "cow"))
    with pytest.raises(InputError, match=r"bees.*'bee'"):
        _open(tmp_path)


def test_a_test_folder_that_lacks_a_class_is_refused(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "train")
    write_class_folders(tmp_path / "test", ("ant", "cow"))
    with pytest.raises(InputError, match="bee"):
        _open(tmp_path)


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    write_class_folders(tmp_path, each=40)
    broken = tmp_path / "bee" / "0055.png"
    broken.write_bytes(broken.read_bytes()[:60])
    data = _open(tmp_path)
    with pytest.raises(InputError, match=r"bee/0055.png cannot be read"):
        data.train.images[55]


def test_links_that_leave_the_folder_are_not_followed(tmp_path: Path) -> None:
    outside = write_class_folders(tmp_path / "outside", ("x",), each=2, first=500)
    folder = write_class_folders(tmp_path / "data")
    (folder / "ant" / "link.png").symlink_to(outside / "x" / "0500.png")
    (folder / "ant" / "inside.png").symlink_to(folder / "ant" / "0000.png")
    assert len(_open(folder).train.images) == 31
    (folder / "bee" / "deep").symlink_to(outside / "x", target_is_directory=True)
    assert len(_open(folder).train.images) == 31
    (folder / "xen").symlink_to(outside / "x", target_is_directory=True)
    with pytest.raises(InputError, match=r"xen.*link"):
        _open(folder)


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    folder = write_class_folders(tmp_path)
    (folder / "ant" / "again").symlink_to(folder / "ant", target_is_directory=True)
    assert len(_open(folder).train.images) == 30


def test_the_fingerprint_follows_the_files(tmp_path: Path) -> None:
    folder = write_class_folders(tmp_path / "a")
    before = _open(folder).fingerprint
    assert _open(folder).fingerprint == before
    shutil.copytree(folder, tmp_path / "b")  # copies times too
    assert _open(tmp_path / "b").fingerprint == before
    os.utime(folder / "ant" / "0000.png", ns=(1, 1))
    touched = _open(folder).fingerprint
    assert touched != before
    (folder / "ant" / "0000.png").rename(folder / "ant" / "zero.png")
    assert _open(folder).fingerprint not in (before, touched)
