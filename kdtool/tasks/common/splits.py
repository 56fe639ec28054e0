"""Which samples are held out or kept: by a hash of their row, the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from kdtool.errors import InputError, did_you_mean
from kdtool.randomness import hashed, key_of
from kdtool.recipe.schema import Data


def _drawn(rows: np.ndarray, *purpose: int | str) -> np.ndarray:
    return hashed(key_of(*purpose), torch.from_numpy(rows)).numpy()


def stratified(
    labels: np.ndarray, rows: np.ndarray, fraction: float, seed: int, purpose: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions that stay and those held out, the same share of every class, each in order.

    A class of two or more samples keeps at least one on either side; a class of one stays, and so does what has no
    label.

    Args:
        labels: (N,) classes, -1 for none.
        rows: (N,) stable sample numbers.
        fraction: share held out, in (0, 1).
        seed: of the draw.
        purpose: what is held out; other purposes draw anew.
    """
    drawn = _drawn(rows, "hold out", purpose, seed)
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if label < 0 or len(members) < 2:
            continue
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        held[members[np.argsort(drawn[members], kind="stable")[:count]]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def rare_joined(labels: np.ndarray, fraction: float) -> np.ndarray:
    """Return (N,) labels in which those of fewer than 1 / fraction samples are one, since none of them has a share."""
    numbers, counts = np.unique(labels[labels >= 0], return_counts=True)
    rare = np.isin(labels, numbers[counts * fraction < 1])
    return np.where(rare, labels.max(initial=0) + 1, labels)


def pick_per_class(labels: np.ndarray, rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return the positions of ``count`` samples of each class (all of a class with fewer), in order.

    Samples without a label (-1) are no class: all of them stay.
    """
    drawn = _drawn(rows, "labels per class", seed)
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        kept = len(members) if label < 0 else count
        chosen.append(members[np.argsort(drawn[members], kind="stable")[:kept]])
    return np.sort(np.concatenate(chosen))


def kept(labels: np.ndarray, rows: np.ndarray, class_names: Sequence[str], cfg: Data, unit: str) -> np.ndarray:
    """Return the positions that stay in the student's training set, in order.

    Args:
        labels: (N,) classes, -1 for none.
        rows: (N,) stable sample numbers.
        class_names: K names in the order of the labels.
        cfg: the recipe's section ``data``.
        unit: what a sample is called.

    Raises:
        InputError: an unknown class is left out, or all of them are.
    """
    stay = np.ones(len(labels), dtype=bool)
    for name in cfg.exclude_classes:
        stay &= labels != class_number(str(name), class_names)
    if not stay.any():
        raise InputError(f"data.exclude_classes leaves no training {unit}.")
    positions = np.flatnonzero(stay)
    if cfg.labels_per_class is None:
        return positions
    chosen: np.ndarray = positions[
        pick_per_class(labels[positions], rows[positions], cfg.labels_per_class, cfg.split_seed)
    ]
    return chosen


def class_number(name: str, class_names: Sequence[str]) -> int:
    """Return the number of a class that ``data.exclude_classes`` gives by its name or, failing that, its number.

    Raises:
        InputError: there is no such class.
    """
    if name in class_names:
        return list(class_names).index(name)
    if name.isdecimal() and int(name) < len(class_names):
        return int(name)
    raise InputError(f"data.exclude_classes: there is no class {name!r}. {did_you_mean(name, class_names)}")
