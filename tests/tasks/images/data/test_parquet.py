"""Parquet folders as Hugging Face ``datasets`` writes them."""

from __future__ import annotations

import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdtool.errors import InputError
from kdtool.tasks.images.data.dataset import DataSet
from kdtool.tasks.images.data.open import open_data
from kdtool.tasks.images.options import Data
from tests.tasks.images.data.pictures import picture

pa = pytest.importorskip("pyarrow", reason="pyarrow is an extra: pip install 'kdtool[parquet]'")


def write_parquet(
    file: Path,
    labels: list[Any],
    first: int = 0,
    names: list[str] | None = None,
    struct: bool = True,
    columns: tuple[str, str] = ("image", "label"),
    features: dict[str, Any] | None = None,
    row_group_size: int = 4,
) -> None:
    """Write images ``first``... with these labels, and the schema's metadata where ``names`` or ``features`` say."""
    import pyarrow.parquet as pq

    encoded = []
    for number in range(first, first + len(labels)):
        data = io.BytesIO()
        picture(number).save(data, "PNG")
        encoded.append(data.getvalue())
    images = [{"bytes": data, "path": None} for data in encoded] if struct else encoded
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())]) if struct else pa.binary()
    table = pa.table({columns[0]: pa.array(images, kind), columns[1]: pa.array(labels)})
    if names is not None:
        features = {columns[0]: {"_type": "Image"}, columns[1]: {"names": names, "_type": "ClassLabel"}}
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, row_group_size=row_group_size)


def _open(folder: Path, **options: Any) -> DataSet:
    return open_data(Data(name=str(folder), **{"val_fraction": 0.0, **options}))


def _check(data: DataSet, part: str, first: int, labels: list[int]) -> None:
    split = getattr(data, part)
    assert split.labels.tolist() == labels
    assert [split.images[int(row)].tobytes() for row in split.rows] == [
        picture(number).tobytes() for number in range(first, first + len(labels))
    ]


@pytest.mark.parametrize("layout", ["data/{}-00000-of-00001.parquet", "{}-00000-of-00001.parquet", "{}/0000.parquet",
                                    "{}.parquet"])  # fmt: skip
def test_layouts(tmp_path: Path, layout: str) -> None:
    write_parquet(tmp_path / layout.format("train"), [0, 1, 1, 0, 1, 0], names=["cat", "dog"])
    write_parquet(tmp_path / layout.format("test"), [1, 0], first=50, names=["cat", "dog"])
    data = _open(tmp_path)
    assert data.class_names == ["cat", "dog"]
    _check(data, "train", 0, [0, 1, 1, 0, 1, 0])
    _check(data, "test", 50, [1, 0])
    assert data.native_size == (16, 20)


def test_shards_follow_one_another(tmp_path: Path) -> None:
    for shard in range(3):
        labels = [0, 1, 1, 0, 1]
        write_parquet(tmp_path / f"data/train-{shard:05}-of-00003.parquet", labels, first=5 * shard, names=["a", "b"])
    write_parquet(tmp_path / "data/test-00000-of-00001.parquet", [1, 0], first=50, names=["a", "b"])
    _check(_open(tmp_path), "train", 0, [0, 1, 1, 0, 1] * 3)


def test_validation_and_named_splits(tmp_path: Path) -> None:
    for part, first in (("train", 0), ("validation", 20), ("test", 30), ("extra", 40)):
        write_parquet(tmp_path / f"{part}-00000-of-00001.parquet", [0, 1, 0], first=first, names=["a", "b"])
    data = _open(tmp_path, val_fraction=0.1)
    _check(data, "val", 20, [0, 1, 0])
    _check(data, "test", 30, [0, 1, 0])
    _check(_open(tmp_path, test_split="extra"), "test", 40, [0, 1, 0])
    _check(_open(tmp_path, train_split="extra"), "train", 40, [0, 1, 0])
    with pytest.raises(InputError, match=r"test_split=extr.*'extra'"):
        _open(tmp_path, test_split="extr")
    with pytest.raises(InputError, match=r"'trian'.*'train'"):
        _open(tmp_path, train_split="trian")


def test_a_validation_split_without_a_test_split_is_the_test_split(tmp_path: Path) -> None:
    for part, first in (("train", 0), ("validation", 20)):
        write_parquet(tmp_path / f"{part}-00000-of-00001.parquet", [0, 1, 0], first=first, names=["a", "b"])
    _check(_open(tmp_path), "test", 20, [0, 1, 0])


def test_train_alone_is_split(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1] * 10, names=["a", "b"])
    data = _open(tmp_path)
    assert np.bincount(data.test.labels).tolist() == [2, 2]
    assert len(data.train.rows) == 16


def test_a_column_of_plain_bytes(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1, 0, 1], struct=False)
    write_parquet(tmp_path / "test.parquet", [0, 1], struct=False, first=9)
    _check(_open(tmp_path), "train", 0, [0, 1, 0, 1])


def test_labels_without_names_are_their_sorted_values(tmp_path: Path) -> None:
    write_parquet(tmp_path / "words/train.parquet", ["dog", "cat", "dog", "ant"])
    write_parquet(tmp_path / "words/test.parquet", ["ant", "dog", "cat"], first=9)
    words = _open(tmp_path / "words")
    assert words.class_names == ["ant", "cat", "dog"]
    assert words.train.labels.tolist() == [2, 1, 2, 0]
    assert words.test.labels.tolist() == [0, 2, 1]
    write_parquet(tmp_path / "numbers/train.parquet", [10, 2, 2_000_000_000, 10])
    write_parquet(tmp_path / "numbers/test.parquet", [2, 10], first=9)
    numbers = _open(tmp_path / "numbers")
    assert numbers.class_names == ["2", "10", "2000000000"]
    assert numbers.train.labels.tolist() == [1, 0, 2, 1]
    assert numbers.test.labels.tolist() == [0, 1]


@pytest.mark.parametrize("labels", [[None] * 6, [-1] * 6])
def test_empty_labels_are_named(tmp_path: Path, labels: list[Any]) -> None:
    write_parquet(tmp_path / "train-00000-of-00001.parquet", labels)
    with pytest.raises(InputError, match=r"\(train\): the labels are empty: the column 'label' .* of the 6 training"):
        _open(tmp_path)


def test_a_test_class_that_train_lacks_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", ["dog", "cat"])
    write_parquet(tmp_path / "test.parquet", ["dog", "cow"], first=9)
    with pytest.raises(InputError, match="'cow'"):
        _open(tmp_path)


def test_labels_beyond_the_names_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1, 2], names=["a", "b"])
    with pytest.raises(InputError, match=r"0\.\.1"):
        _open(tmp_path)


def test_columns_are_found_by_their_type_and_label_comes_before_finer_ones(tmp_path: Path) -> None:
    features = {
        "picture": {"_type": "Image"},
        "kind": {"names": ["a", "b"], "_type": "ClassLabel"},
    }
    write_parquet(tmp_path / "one/train.parquet", [0, 1, 1, 0], columns=("picture", "kind"), features=features)
    write_parquet(tmp_path / "one/test.parquet", [0, 1], columns=("picture", "kind"), features=features)
    _check(_open(tmp_path / "one"), "train", 0, [0, 1, 1, 0])
    two = {"coarse": {"names": ["x"], "_type": "ClassLabel"}, "label": {"names": ["a", "b"], "_type": "ClassLabel"}}
    for part in ("train", "test"):
        file = tmp_path / f"two/{part}.parquet"
        write_parquet(file, [0, 1, 1, 0], features={"image": {"_type": "Image"}, **two})
        import pyarrow.parquet as pq

        table = pq.read_table(file)
        pq.write_table(table.append_column("coarse", pa.array([0, 0, 0, 0])), file)
    assert _open(tmp_path / "two").class_names == ["a", "b"]


def test_missing_columns_are_named(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1], columns=("text", "score"))
    with pytest.raises(InputError, match=r"score"):
        _open(tmp_path)


# --- samples without a label ------------------------------------------------------------------------------------------


def test_training_samples_without_a_label_stay_and_are_never_held_out(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1, -1, None] * 10, names=["a", "b"])
    data = _open(tmp_path, val_fraction=0.5)
    assert (data.train.labels == -1).sum() == 20
    assert data.val is not None
    assert (data.val.labels >= 0).all()
    assert (data.test.labels >= 0).all()


def test_a_test_split_without_labels_cedes_to_validation(tmp_path: Path) -> None:
    for part, first, labels in (("train", 0, [0, 1, 0]), ("validation", 20, [0, 1, 0]), ("test", 30, [-1, -1, -1])):
        write_parquet(tmp_path / f"{part}.parquet", labels, first=first, names=["a", "b"])
    _check(_open(tmp_path), "test", 20, [0, 1, 0])
    with pytest.raises(InputError, match="no label"):
        _open(tmp_path, test_split="test")


# --- bad input --------------------------------------------------------------------------------------------------------


def test_a_broken_image_is_named_by_its_row(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    images = [{"bytes": b"no image", "path": None}] * 4
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(images, kind), "label": [0, 0, 1, 1]})
    pq.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(InputError, match=r"image \d of .*train.* cannot be read"):
        _open(tmp_path)


def test_images_that_are_only_paths_are_refused(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    images = [{"bytes": None, "path": "a.png"}] * 4
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(images, kind), "label": [0, 0, 1, 1]}), tmp_path / "train.parquet")
    with pytest.raises(InputError, match="cannot be read"):
        _open(tmp_path)


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match=r"train.parquet cannot be read as parquet"):
        _open(tmp_path)


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1], names=["a", "b"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match=r"pip install 'kdtool\[parquet\]'"):
        _open(tmp_path)


def test_the_fingerprint_follows_the_bytes(tmp_path: Path) -> None:
    for folder, first in (("a", 0), ("b", 0), ("c", 1)):
        write_parquet(tmp_path / folder / "train.parquet", [0, 1] * 5, first=first, names=["a", "b"])
    a, b, c = (_open(tmp_path / folder).fingerprint for folder in "abc")
    assert a == b
    assert a != c


# --- the real thing ---------------------------------------------------------------------------------------------------


def test_mnist(shared_data: Path) -> None:
    began = time.monotonic()
    data = _open(shared_data / "mnist")
    assert time.monotonic() - began < 20
    assert (len(data.train.rows), len(data.test.rows)) == (60_000, 10_000)
    assert data.class_names == [str(n) for n in range(10)]
    assert data.native_size == (28, 28)
    assert data.grey


def test_cifar100(shared_data: Path) -> None:
    data = _open(shared_data / "cifar100")
    assert (len(data.train.rows), len(data.test.rows)) == (50_000, 10_000)
    assert len(data.class_names) == 100
    assert (np.bincount(data.train.labels) == 500).all()
    assert data.native_size == (32, 32)
    assert not data.grey


@pytest.mark.parametrize("labels", [[[0], [1], [0, 1], []] * 3, [{"class": "ant"}, {"class": "bee"}] * 6])
@pytest.mark.parametrize("declared", [None, ["ant", "bee"]])
def test_labels_that_are_lists_are_refused_by_name(tmp_path: Path, labels: list[Any], declared: Any) -> None:
    write_parquet(tmp_path / "train-0.parquet", labels, names=declared)
    with pytest.raises(InputError, match=r"train-0\.parquet \(column 'label'\) are of type (list|struct).*one class"):
        _open(tmp_path)
