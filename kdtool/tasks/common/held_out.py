"""Which samples are trained on, which chosen by and which tested on: a task's own splits, or held out of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Protocol, TypeVar

import numpy as np

from kdtool.errors import InputError
from kdtool.recipe.schema import Data
from kdtool.tasks.common.splits import rare_joined, stratified

S = TypeVar("S", bound="Labelled")


class Labelled(Protocol):
    """A split.

    Attributes:
        labels: (N,) int64 classes, -1 for none.
        rows: (N,) int64 stable sample numbers.
    """

    # Properties, so that a frozen split is one, too.
    @property
    def labels(self) -> np.ndarray: ...
    @property
    def rows(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def take(self: S, positions: np.ndarray) -> S:
        """Return the samples at these positions."""
        ...


def roles(
    train: S, val: S | None, test: S | None, cfg: Data, *, in_memory: bool = True, sets: bool = False
) -> tuple[S, S | None, S]:
    """Return the splits to train on, to choose epochs by (None: the last epoch is the result) and to test on.

    Args:
        train, val, test: those that the source has.
        cfg: the recipe's section ``data``.
        in_memory: False where the training set is streamed, so that nothing can be held out to choose by.
        sets: labels are numbers of sets of classes, of which most may be one sample's alone.
    """
    if test is not None and cfg.test_split == "auto" and (test.labels < 0).all() and val is not None:
        test = None  # published without its labels
    if test is None and val is not None:
        test, val = val, None
    if test is None:
        train, test = _hold_out(train, cfg.test_fraction, cfg.split_seed, "test", sets)
    if cfg.watch_test:
        val = test
    elif cfg.val_fraction == 0:
        val = None  # the last epoch is the result, whatever the source offers to choose by
    elif val is None and in_memory:
        train, val = _hold_out(train, cfg.val_fraction, cfg.split_seed, "validation", sets)
    return train, val, test


def _hold_out(split: S, fraction: float, seed: int, what: str, sets: bool) -> tuple[S, S]:
    strata = rare_joined(split.labels, fraction) if sets else split.labels
    keep, held = stratified(strata, split.rows, fraction, seed, what)
    return split.take(keep), split.take(held)


def refuse_unfit(splits: Mapping[str, Labelled | None], cfg: Data, units: str) -> None:
    """Refuse splits that nothing can be learnt from or measured on.

    Args:
        splits: by name; the one called "training" may hold samples without a label.
        cfg: the recipe's section ``data``.
        units: what the samples are called.

    Raises:
        InputError: a split is empty, or one to measure on has samples without a label.
    """
    for name, split in splits.items():
        if split is None:
            continue
        if len(split) == 0:
            key = {"test": "test_fraction", "validation": "val_fraction"}.get(name)
            few = f": of so few {units} data.{key}={getattr(cfg, key):g} is none. Raise it, or give more" if key else ""
            raise InputError(f"--data {cfg.name}: the {name} split is empty{few}.")
        if name != "training" and (split.labels < 0).any():
            raise InputError(
                f"--data {cfg.name}: {units} of the {name} split have no label, so nothing can be measured on them. "
                "data.test_split names another split."
            )


def origins(
    found: Mapping[str, Labelled | None], stored: Mapping[str, Labelled | None], places: Mapping[str, str], cfg: Data
) -> dict[str, str]:
    """Return where each split is from, by "training", "validation" and "test"; those that are not there are left out.

    Args:
        found: as ``roles`` gave them, by those names.
        stored: those that the source has, by "train", "val" and "test".
        places: where those lie, by the same.
        cfg: the recipe's section ``data``.
    """
    shares = {
        "validation": f"data.val_fraction={cfg.val_fraction:g}",
        "test": f"data.test_fraction={cfg.test_fraction:g}",
    }
    held: dict[str, str] = {}
    for name in ("training", "validation", "test"):
        split = found.get(name)
        if split is None:
            continue
        own = next((role for role in ("val", "test") if split is stored.get(role)), None)
        if name == "training":
            held[name] = places.get("train", cfg.name)
        elif name == "validation" and split is found.get("test"):
            held[name] = "the test split (data.watch_test)"
        elif own is not None:
            held[name] = places.get(own, f"{cfg.name}, split {own}")
        else:
            held[name] = f"held out of training ({shares[name]})"
    return held


def fingerprint(source: str, cfg: Data) -> str:
    """Return the digest of a source's own and of all that decides its splits."""
    val_fraction = 0.0 if cfg.watch_test else cfg.val_fraction
    decides = [source, val_fraction, cfg.test_fraction, cfg.split_seed, cfg.train_split, cfg.test_split]
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()
