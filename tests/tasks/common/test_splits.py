"""Splits of labelled samples, whatever they are: what is held out, and what of the rest a student gets."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from kdtool.errors import InputError
from kdtool.recipe.schema import Data
from kdtool.tasks.common.held_out import fingerprint, refuse_unfit, roles
from kdtool.tasks.common.splits import class_number, kept

NAMES = ["ant", "bee", "cat"]


@dataclasses.dataclass
class Table:
    """A split that is nothing but numbers."""

    labels: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: np.ndarray) -> Table:
        return Table(self.labels[positions], self.rows[positions])


def table(labels: Any, first: int = 0) -> Table:
    return Table(np.asarray(labels, dtype=np.int64), np.arange(first, first + len(labels), dtype=np.int64))


TRAIN = table(np.repeat([0, 1, 2], 20))
VAL, TEST = table([0, 1, 2], first=100), table([0, 1, 2], first=200)
BARE = table([-1, -1], first=300)
"""As test splits are published for a competition."""


def sizes(train: Table, val: Table | None, test: Table | None, **keys: Any) -> tuple[int, int | None, int]:
    found = roles(train, val, test, Data(**keys))
    return len(found[0]), None if found[1] is None else len(found[1]), len(found[2])


def test_what_a_source_lacks_is_held_out_of_its_training_split() -> None:
    assert sizes(TRAIN, VAL, TEST) == (60, 3, 3)
    assert sizes(TRAIN, None, TEST) == (54, 6, 3)  # a tenth of each class
    assert sizes(TRAIN, None, None) == (42, 6, 12)  # a fifth to test on, then a tenth of the rest: 1.6 of 16, thus 2
    assert sizes(TRAIN, VAL, None) == (54, 6, 3)  # the only other split is tested on
    assert sizes(TRAIN, VAL, TEST, val_fraction=0.0) == (60, None, 3)
    train, val, test = roles(TRAIN, None, None, Data())
    assert val is not None
    assert sorted([*train.rows, *val.rows, *test.rows]) == list(range(60))


def test_the_test_split_may_be_watched() -> None:
    train, val, test = roles(TRAIN, VAL, TEST, Data(watch_test=True))
    assert val is test is TEST
    assert train is TRAIN


def test_a_test_split_published_without_labels_is_passed_over_unless_it_is_named() -> None:
    assert roles(TRAIN, VAL, BARE, Data())[2] is VAL
    named = roles(TRAIN, VAL, BARE, Data(test_split="test"))
    assert named[2] is BARE
    with pytest.raises(InputError, match=r"rows of the test split have no label.*data\.test_split"):
        refuse_unfit({"training": named[0], "test": named[2]}, Data(), "rows")


def test_nothing_is_held_out_of_a_stream_to_choose_by() -> None:
    train, val, _ = roles(TRAIN, None, TEST, Data(), in_memory=False)
    assert train is TRAIN
    assert val is None


def test_unfit_splits_are_refused_by_name() -> None:
    refuse_unfit({"training": BARE, "test": TEST, "validation": None}, Data(), "rows")
    with pytest.raises(InputError, match=r"the validation split is empty: of so few rows data\.val_fraction=0\.1"):
        refuse_unfit({"training": TRAIN, "validation": table([])}, Data(), "rows")


def test_the_fingerprint_follows_what_decides_the_splits() -> None:
    plain = fingerprint("x", Data())
    changed = [
        {"val_fraction": 0.2}, {"test_fraction": 0.3}, {"split_seed": 1}, {"train_split": "a"}, {"test_split": "b"},
        {"watch_test": True},
    ]  # fmt: skip
    found = [plain, fingerprint("y", Data()), *(fingerprint("x", Data(**keys)) for keys in changed)]
    assert len(set(found)) == len(found)
    assert fingerprint("x", Data(labels_per_class=3, name="z")) == plain


def test_what_is_kept_is_the_same_number_of_each_class_and_all_without_a_label() -> None:
    labels = np.array([0, 0, 0, -1, 1, 1, 2, -1])
    rows = np.arange(8) + 50
    assert kept(labels, rows, NAMES, Data(), "row").tolist() == list(range(8))
    chosen = kept(labels, rows, NAMES, Data(labels_per_class=2, exclude_classes=["2"]), "row")
    assert np.unique(labels[chosen], return_counts=True)[1].tolist() == [2, 2, 2]
    assert (np.diff(chosen) > 0).all()
    with pytest.raises(InputError, match="leaves no training row"):
        kept(labels[4:6], rows[4:6], NAMES, Data(exclude_classes=["bee"]), "row")


def test_what_is_kept_follows_the_numbers_of_the_samples_not_their_places() -> None:
    turned = table(TRAIN.labels[::-1])
    turned.rows = TRAIN.rows[::-1].copy()
    cfg = Data(labels_per_class=5)
    chosen = TRAIN.rows[kept(TRAIN.labels, TRAIN.rows, NAMES, cfg, "row")]
    assert set(chosen) == set(turned.rows[kept(turned.labels, turned.rows, NAMES, cfg, "row")])


def test_a_class_goes_by_its_name_first_and_by_its_number_else() -> None:
    assert class_number("bee", NAMES) == class_number("1", NAMES) == 1
    assert class_number("1", ["1", "0"]) == 0
    for name in ("bea", "3", "²", "-1"):
        with pytest.raises(InputError, match=r"data\.exclude_classes: there is no class"):
            class_number(name, NAMES)
