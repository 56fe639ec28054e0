"""Folders that look like something else: what is read of them, and what is said before anything is learnt from it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kdtool.errors import InputError
from kdtool.tasks.images.data.dataset import DataSet
from kdtool.tasks.images.data.open import open_data
from kdtool.tasks.images.options import Data
from tests.tasks.images.data.pictures import picture, write_class_folders


def _open(folder: Path, measuring: bool = False, **options: object) -> DataSet:
    cfg = Data(name=str(folder), **{"val_fraction": 0.0, **options})  # type: ignore[arg-type]
    return open_data(cfg, measuring=measuring)


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("Train", "Val", "Test"),
        ("TRAIN", "VALIDATION", "TEST"),
        ("train", "Valid", "test"),
        ("Training", "val", "Testing"),
    ],
)
def test_splits_are_found_in_any_case(tmp_path: Path, train: str, val: str, test: str) -> None:
    write_class_folders(tmp_path / train)
    write_class_folders(tmp_path / val, each=3, first=100)
    write_class_folders(tmp_path / test, each=2, first=200)
    data = _open(tmp_path, val_fraction=0.1)
    assert data.class_names == ["ant", "bee", "cow"]
    assert data.val is not None
    assert (len(data.train), len(data.val), len(data.test)) == (30, 9, 6)
    assert {name: Path(place).name for name, place in data.origins.items()} == {
        "training": train, "validation": val, "test": test,
    }  # fmt: skip


def test_one_split_in_two_spellings_is_refused(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "TRAIN")
    write_class_folders(tmp_path / "Train", first=100)
    with pytest.raises(InputError, match="TRAIN and Train"):
        _open(tmp_path)
    write_class_folders(tmp_path / "train", first=200)  # the usual spelling goes first
    assert len(_open(tmp_path).train.images) == 30


def test_a_class_may_be_called_as_a_split_in_capitals(tmp_path: Path) -> None:
    write_class_folders(tmp_path, ("Bus", "Plane", "Train"))
    assert _open(tmp_path).class_names == ["Bus", "Plane", "Train"]


def test_where_a_split_was_drawn_is_said(tmp_path: Path) -> None:
    data = _open(write_class_folders(tmp_path), val_fraction=0.2)
    assert data.origins == {
        "training": str(tmp_path),
        "validation": "held out of training (data.val_fraction=0.2)",
        "test": "held out of training (data.test_fraction=0.2)",
    }
    assert not data.own_test
    assert _open(tmp_path, watch_test=True).origins["validation"] == "the test split (data.watch_test)"


def test_splits_without_a_training_split_are_no_classes(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "val")
    write_class_folders(tmp_path / "Test", first=100)
    with pytest.raises(InputError, match=r"holds Test, val and nothing to train on.*data\.train_split"):
        _open(tmp_path)


def test_splits_without_class_folders_are_no_classes(tmp_path: Path) -> None:
    for name in ("Train", "val"):
        (tmp_path / name).mkdir()
        for number in range(5):
            picture(number).save(tmp_path / name / f"{number}.png")
    with pytest.raises(InputError, match=r"holds Train, val and no class folders.*data\.labels=false"):
        _open(tmp_path)


def test_folders_beside_splits_are_pointed_out(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "train")
    write_class_folders(tmp_path / "tset", each=2, first=100)
    data = _open(tmp_path)
    assert not data.own_test
    assert any("passed over: tset" in remark for remark in data.remarks)


def test_classes_within_classes_are_pointed_out(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "train" / "animals", ("shark", "tench"))
    write_class_folders(tmp_path / "train" / "plants", ("fern", "rose"), first=100)
    data = _open(tmp_path)
    assert data.class_names == ["animals", "plants"]
    (remark,) = data.remarks
    assert "animals/shark, animals/tench, plants/fern, plants/rose" in remark
    assert "move them up" in remark
    shutil.rmtree(tmp_path / "train" / "plants")
    with pytest.raises(InputError, match=r"one class only \(animals\).*animals/shark, animals/tench.*move them up"):
        _open(tmp_path)


def test_a_folder_in_each_class_is_no_class(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        write_class_folders(tmp_path / name, ("images",), first=ord(name[0]) * 10)
    write_class_folders(tmp_path, ("cow",), first=3000)
    write_class_folders(tmp_path / "cow", ("old", "new"), first=4000)
    data = _open(tmp_path)
    assert data.class_names == ["ant", "bee", "cow"]
    assert data.remarks == []


def test_images_in_no_class_folder_are_counted(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "train")
    for number in range(3):
        picture(number).save(tmp_path / "train" / f"loose{number}.png")
    assert any("3 images" in remark and "no class folder" in remark for remark in _open(tmp_path).remarks)


def test_files_of_other_kinds_are_counted(tmp_path: Path) -> None:
    write_class_folders(tmp_path)
    for name in ("ant/a.HEIC", "bee/b.heic", "bee/more/c.mp4", "cow/LICENSE", "cow/.hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "ant" / "link.png").symlink_to(__file__)
    (note,) = _open(tmp_path).notes
    assert all(each in note for each in ("2 .heic", "1 .mp4", "1 no ending", "1 links"))
    assert "kdtool[heic]" in note
    assert "data.follow_links=true" in note


def test_a_class_of_other_kinds_says_so(tmp_path: Path) -> None:
    write_class_folders(tmp_path)
    (tmp_path / "dog").mkdir()
    for number in range(4):
        (tmp_path / "dog" / f"{number}.heic").write_bytes(b"x")
    with pytest.raises(InputError, match=r"dog holds no images.*4 \.heic.*kdtool\[heic\]"):
        _open(tmp_path)


@pytest.mark.parametrize("all_of_them", [True, False])
def test_class_folders_that_are_links_name_the_option(tmp_path: Path, all_of_them: bool) -> None:
    outside = write_class_folders(tmp_path / "outside")
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("ant", "bee", "cow"):
        if all_of_them or name == "cow":
            (folder / name).symlink_to(outside / name, target_is_directory=True)
        else:
            shutil.copytree(outside / name, folder / name)
    with pytest.raises(InputError, match=r"links that lead out.*cow.*data\.follow_links=true"):
        _open(folder)
    assert len(_open(folder, follow_links=True).train.images) == 30


# --- to be measured on ------------------------------------------------------------------------------------------------


def test_what_is_only_measured_needs_no_training_split(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "Test", ("ant", "cow"), each=4)
    data = _open(tmp_path, measuring=True)
    assert data.class_names == ["ant", "cow"]
    assert (len(data.train), len(data.test), data.own_test) == (0, 8, True)
    assert data.native_size == (16, 20)
    write_class_folders(tmp_path / "val", ("bee",), each=3, first=100)
    both = _open(tmp_path, measuring=True)
    assert both.class_names == ["ant", "cow", "bee"]
    assert both.val is not None
    assert both.val.labels.tolist() == [2, 2, 2]


def test_what_is_only_measured_may_lack_classes(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "train")
    write_class_folders(tmp_path / "val", ("ant", "cow"), first=100)
    with pytest.raises(InputError, match="'bee'"):
        _open(tmp_path)
    assert _open(tmp_path, measuring=True).test.labels.tolist() == [0] * 10 + [2] * 10
    assert _open(write_class_folders(tmp_path / "one", ("bee",)), measuring=True).class_names == ["bee"]
