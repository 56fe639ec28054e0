"""Which samples are held out or kept: by a hash of their row, the same on every machine."""

from __future__ import annotations

import numpy as np
import torch

from kdtool.randomness import hashed, key_of


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
