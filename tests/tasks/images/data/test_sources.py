"""Opening data: what is found, what is held out, what the student's training set leaves out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from kdtool.errors import InputError
from kdtool.tasks.images.data.dataset import DataSet
from kdtool.tasks.images.data.open import default_image_size, open_data, thin
from kdtool.tasks.images.options import Data
from tests.tasks.images.data.pictures import picture, write_class_folders


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return open_data(Data())


def test_digits_are_sklearns_images_split_four_to_one_in_every_class(digits: DataSet) -> None:
    from sklearn.datasets import load_digits

    raw = load_digits()
    data = open_data(Data(val_fraction=0.0))
    assert data.class_names == [str(n) for n in range(10)]
    assert data.native_size == (8, 8)
    assert data.grey
    assert data.val is None
    assert sorted([*data.train.rows, *data.test.rows]) == list(range(1797))
    for split in (data.train, data.test):
        assert (split.labels == raw.target[split.rows]).all()
    for number in range(10):
        of_class = (raw.target == number).sum()
        assert abs((data.test.labels == number).sum() - 0.2 * of_class) <= 0.5
    image = data.train.images[17]
    assert image.mode == "RGB"
    pixels = np.asarray(image)
    assert (pixels == pixels[..., :1]).all()
    assert np.abs(pixels[..., 0] - raw.images[17] * 255 / 16).max() <= 0.5


def test_the_digits_test_split_does_not_depend_on_options(digits: DataSet) -> None:
    other = open_data(Data(split_seed=5, test_fraction=0.5, val_fraction=0.3))
    assert (digits.test.rows == other.test.rows).all()


def test_a_validation_split_is_held_out_of_train_by_its_seed(digits: DataSet) -> None:
    assert digits.val is not None
    assert not set(digits.val.rows) & set(digits.train.rows)
    assert not set(digits.val.rows) & set(digits.test.rows)
    again = open_data(Data()).val
    other = open_data(Data(split_seed=1)).val
    assert again is not None
    assert other is not None
    assert (again.rows == digits.val.rows).all()
    assert set(other.rows) != set(digits.val.rows)
    counts = np.bincount(digits.val.labels, minlength=10)
    whole = counts + np.bincount(digits.train.labels, minlength=10)
    assert (np.abs(counts - 0.1 * whole) <= 0.5).all()


def test_the_fingerprint_follows_what_decides_the_data(digits: DataSet) -> None:
    assert len(digits.fingerprint) == 64
    assert open_data(Data(workers=3, mixup=0.5)).fingerprint == digits.fingerprint
    assert open_data(Data(val_fraction=0.2)).fingerprint != digits.fingerprint
    assert open_data(Data(split_seed=1)).fingerprint != digits.fingerprint


@pytest.mark.parametrize(
    ("native", "expected"),
    [((8, 8), 32), ((28, 28), 32), ((32, 32), 32), ((33, 20), 40), ((64, 64), 64), ((65, 10), 224), ((500, 375), 224)],
)
def test_small_images_stay_small(native: tuple[int, int], expected: int) -> None:
    assert default_image_size(native) == expected


def test_thinning_leaves_out_classes_by_name_or_number(digits: DataSet, tmp_path: Path) -> None:
    thinned = thin(digits.train, Data(exclude_classes=["3", "9"]), digits.class_names)
    assert set(thinned.labels) == set(range(10)) - {3, 9}
    assert thinned.images is digits.train.images
    data = open_data(Data(name=str(write_class_folders(tmp_path)), val_fraction=0.0))
    assert set(thin(data.train, Data(exclude_classes=["bee"]), data.class_names).labels) == {0, 2}
    assert set(thin(data.train, Data(exclude_classes=["1"]), data.class_names).labels) == {0, 2}


def test_a_name_that_is_a_number_is_a_name_first(digits: DataSet) -> None:
    thinned = thin(digits.train, Data(exclude_classes=["0"]), ["7", "0", *"12345689"])
    assert 1 not in thinned.labels
    assert 0 in thinned.labels


def test_unknown_classes_are_refused_with_the_nearest(digits: DataSet) -> None:
    with pytest.raises(InputError, match=r"no class 'bea'.*'bee'"):
        thin(digits.train, Data(exclude_classes=["bea"]), ["ant", "bee", *"23456789"])
    with pytest.raises(InputError, match="no training image"):
        thin(digits.train, Data(exclude_classes=[str(n) for n in range(10)]), digits.class_names)


def test_labels_per_class_keeps_so_many_by_the_split_seed(digits: DataSet) -> None:
    def rows(count: int, seed: int = 0) -> set[int]:
        kept = thin(digits.train, Data(labels_per_class=count, split_seed=seed), digits.class_names)
        assert (np.bincount(kept.labels) == count).all()
        assert (np.diff(kept.rows) > 0).all()
        return set(kept.rows.tolist())

    assert rows(4) == rows(4)
    assert rows(4) < rows(9)  # more labels add to fewer
    assert rows(4) != rows(4, seed=1)
    everything = thin(digits.train, Data(labels_per_class=10_000), digits.class_names)
    assert (everything.rows == digits.train.rows).all()


def test_unlabelled_images_join_without_a_label_and_with_rows_of_their_own(digits: DataSet, tmp_path: Path) -> None:
    picture(5).save(tmp_path / "loose.png")
    write_class_folders(tmp_path / "deep", ("a",), each=2)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_bytes(b"")
    cfg = Data(labels_per_class=3, unlabelled=str(tmp_path))
    joined = thin(digits.train, cfg, digits.class_names)
    assert joined.labels[-3:].tolist() == [-1, -1, -1]
    assert (joined.labels[:-3] >= 0).all()
    # Numbers past all of the source's own, whatever was thinned: caches know samples by them.
    assert joined.rows[-3:].tolist() == [1797, 1798, 1799]
    assert joined.images[1799].tobytes() == picture(5).tobytes()
    own = int(joined.rows[0])
    assert joined.images[own].tobytes() == digits.train.images[own].tobytes()


@pytest.mark.parametrize("what", ["missing", "empty"])
def test_unlabelled_folders_that_hold_nothing_are_refused(digits: DataSet, tmp_path: Path, what: str) -> None:
    folder = tmp_path / what
    if what == "empty":
        folder.mkdir()
    with pytest.raises(InputError, match=rf"data.unlabelled=.*{what}"):
        thin(digits.train, Data(unlabelled=str(folder)), digits.class_names)


def test_a_name_that_is_nothing_is_refused_with_what_is_valid(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"digit.*Did you mean 'digits'"):
        open_data(Data(name="digit"))
    file = tmp_path / "x.tar"
    file.write_bytes(b"")
    with pytest.raises(InputError, match="is a file"):
        open_data(Data(name=str(file)))


def test_splits_are_plain_data(digits: DataSet) -> None:
    for split in (digits.train, digits.test):
        assert split.labels.dtype == split.rows.dtype == np.int64
    assert dataclasses.is_dataclass(digits)
