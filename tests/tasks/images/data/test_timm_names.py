"""Data sets by timm's names, as far as they can be had offline."""

from __future__ import annotations

import io
import json
import pickle
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdtool.errors import InputError
from kdtool.tasks.images.data.dataset import DataSet
from kdtool.tasks.images.data.open import open_data
from kdtool.tasks.images.options import Data
from tests.tasks.images.data.pictures import picture, write_class_folders


def _open(name: str, root: Path | None = None, **options: Any) -> DataSet:
    given = {"val_fraction": 0.0, "root": str(root) if root else None, **options}
    return open_data(Data(name=name, **given))


def _pixels(data: DataSet, part: str) -> list[bytes]:
    split = getattr(data, part)
    return [split.images[int(row)].tobytes() for row in split.rows]


def _written(first: int, count: int) -> list[bytes]:
    return [picture(number).tobytes() for number in range(first, first + count)]


# --- torchvision's ----------------------------------------------------------------------------------------------------


def test_torchvisions_image_folder(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "train", each=4)
    write_class_folders(tmp_path / "test", each=2, first=100)
    data = _open("torch/image_folder", tmp_path)
    assert data.class_names == ["ant", "bee", "cow"]
    assert _pixels(data, "train") == _written(0, 12)
    assert _pixels(data, "test") == _written(100, 6)
    assert data.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    again = pickle.loads(pickle.dumps(data.train.images))
    assert again[3].tobytes() == picture(3).tobytes()


def test_an_image_folders_val_is_its_test_split_and_never_the_whole(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "train", each=4)
    write_class_folders(tmp_path / "val", each=2, first=100)
    data = _open("torch/image_folder", tmp_path)
    assert _pixels(data, "test") == _written(100, 6)
    assert data.class_names == ["ant", "bee", "cow"]


def test_an_image_folder_without_a_test_split_is_split(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "train", each=10)
    data = _open("torch/image_folder", tmp_path)
    assert np.bincount(data.test.labels).tolist() == [2, 2, 2]
    assert np.bincount(data.train.labels).tolist() == [8, 8, 8]


def test_a_split_that_is_not_there_is_refused_and_not_replaced(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "train", each=4)
    with pytest.raises(InputError, match=r"train_split=trian.*'train'"):
        _open("torch/image_folder", tmp_path, train_split="trian")
    # timm takes every name but "train" for CIFAR's test split.
    with pytest.raises(InputError, match=r"train_split=trian.*'train'"):
        _open("torch/cifar10", tmp_path, train_split="trian")


def test_cifar10_from_local_files(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    draw = np.random.Generator(np.random.Philox(0))

    def batch(count: int) -> dict[str, Any]:
        return {"data": draw.integers(0, 256, (count, 3072), dtype=np.uint8), "labels": [i % 10 for i in range(count)]}

    written = {}
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        written[name] = batch(20)
        (folder / name).write_bytes(pickle.dumps(written[name]))
    names = [f"class {i}" for i in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    from torchvision.datasets import CIFAR10

    with pytest.MonkeyPatch.context() as patch:  # these files are not the real ones, whose digests are checked
        patch.setattr(CIFAR10, "_check_integrity", lambda self: True)
        patch.setattr("torchvision.datasets.cifar.check_integrity", lambda *args: True)
        data = _open("torch/cifar10", tmp_path)
    assert data.class_names == names
    assert (len(data.train.rows), len(data.test.rows)) == (100, 20)
    assert data.native_size == (32, 32)
    first = np.asarray(data.test.images[0])
    assert (first.transpose(2, 0, 1).ravel() == written["test_batch"]["data"][0]).all()


@pytest.mark.parametrize("name", ["torch/cifar10", "torch/nothing"])
def test_what_timm_cannot_open_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"{name}.*cannot open"):
        _open(name, tmp_path)
    with pytest.raises(InputError, match=r"data\.root"):
        _open(name)


@pytest.mark.parametrize(("name", "package", "fix"), [
    ("hfds/mnist", "datasets", r"kdtool\[hfds\]"),
    ("tfds/mnist", "tensorflow_datasets", "needs a package"),
])  # fmt: skip
def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str, fix: str
) -> None:
    for module in [m for m in sys.modules if m.startswith("timm.data.readers.reader_")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=fix):
        _open(name, tmp_path)


def test_without_webdataset_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_shard(tmp_path / "train-0000.tar", 4, 0)
    monkeypatch.setattr("timm.data.readers.reader_wds.wds", None)
    with pytest.raises(InputError, match=r"kdtool\[wds\]"):
        _open("wds/shards", tmp_path)


# --- WebDataset -------------------------------------------------------------------------------------------------------


def _write_shard(file: Path, count: int, first: int, broken: int | None = None) -> None:
    with tarfile.open(file, "w") as shard:
        for number in range(first, first + count):
            image = io.BytesIO()
            picture(number).save(image, "PNG")
            pixels = b"no image" if number == broken else image.getvalue()
            for extension, data in (("png", pixels), ("cls", str(number % 3).encode())):
                about = tarfile.TarInfo(f"{number:04}.{extension}")
                about.size = len(data)
                shard.addfile(about, io.BytesIO(data))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    pytest.importorskip("webdataset", reason="webdataset is an extra: pip install 'kdtool[wds]'")
    _write_shard(tmp_path / "train-0000.tar", 6, 0)
    _write_shard(tmp_path / "train-0001.tar", 6, 6)
    _write_shard(tmp_path / "test-0000.tar", 5, 50)
    return tmp_path


def test_shards_are_read_in_order(shards: Path) -> None:
    data = _open("wds/shards", shards)
    assert _pixels(data, "train") == _written(0, 12)
    assert data.train.labels.tolist() == [number % 3 for number in range(12)]
    assert _pixels(data, "test") == _written(50, 5)
    assert data.class_names == ["0", "1", "2"]
    some = _open("wds/shards", shards, train_split="train-{0001..0001}.tar")
    assert _pixels(some, "train") == _written(6, 6)


def test_shards_with_an_index(shards: Path) -> None:
    def about(name: str, files: list[str], lengths: list[int]) -> dict[str, Any]:
        return {"name": name, "num_samples": sum(lengths), "filenames": files, "shard_lengths": lengths}

    splits = {
        "train": about("train", ["train-0000.tar", "train-0001.tar"], [6, 6]),
        "validation": about("validation", ["test-0000.tar"], [5]),
    }
    (shards / "_info.json").write_text(json.dumps({"splits": splits}))
    data = _open("wds/shards", shards)
    assert _pixels(data, "test") == _written(50, 5)
    _write_shard(shards / "train-0001.tar", 6, 6, broken=8)
    with pytest.raises(InputError, match="12 images, of which 11 could be read"):
        _open("wds/shards", shards)


def test_a_stream_larger_than_the_budget_is_refused(shards: Path) -> None:
    with pytest.raises(InputError, match=r"memory_budget_gb"):
        _open("wds/shards", shards, memory_budget_gb=1e-6)


def test_a_folder_without_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no shards"):
        _open("wds/shards", tmp_path)
    with pytest.raises(InputError, match=r"data\.root"):
        _open("wds/shards")


# --- Hugging Face datasets --------------------------------------------------------------------------------------------


def test_hugging_face_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets", reason="datasets is an extra: pip install 'kdtool[hfds]'")
    from tests.tasks.images.data.test_parquet import write_parquet

    for part, first in (("train", 0), ("validation", 20)):
        write_parquet(tmp_path / f"set/data/{part}-00000-of-00001.parquet", [0, 1, 1, 0], first, names=["cat", "dog"])
    cache = tmp_path / "cache"
    data = _open(f"hfds/{tmp_path}/set", cache)
    assert data.class_names == ["cat", "dog"]
    assert data.train.labels.tolist() == [0, 1, 1, 0]
    assert _pixels(data, "train") == _written(0, 4)
    assert _pixels(data, "test") == _written(20, 4)
    with pytest.raises(InputError, match=r"test_split=tset"):
        _open(f"hfds/{tmp_path}/set", cache, test_split="tset")
