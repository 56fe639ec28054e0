"""Batches of samples: token numbers, as long as the longest of the batch, and where the rows of a loss are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdtool.tasks.language.data.dataset import Split
from kdtool.tasks.language.data.encode import Marked
from kdtool.tasks.language.data.twin import Twin
from kdtool.tasks.language.models.built import Inputs


class Maker:
    """Makes a batch's inputs, see ``kdtool.tasks.language.models.built.Inputs``.

    Args:
        split: of the samples.
        twins: by key, the samples in the tokens of teachers that have others; see
            ``kdtool.tasks.language.translated``.
    """

    def __init__(self, split: Split, twins: Mapping[str, Twin] | None = None):
        self.split, self.twins = split, dict(twins or {})

    def __call__(self, positions: Tensor, view: int) -> dict[str, Any]:
        """Return the inputs of the samples at these positions; they look the same in every view."""
        rows = self.split.rows[positions.numpy()].tolist()
        found: dict[str, Any] = padded([self.split.samples[row] for row in rows])
        for key, twin in self.twins.items():
            theirs = [twin.samples.marked(row, twin.meets) for row in rows]
            found[key] = beside(theirs, [self.split.samples.marked(row, twin.met) for row in rows])
        return found


def beside(theirs: list[Marked], ours: list[Marked]) -> Inputs:
    """Return what a teacher of other tokens reads in the place of a batch.

    Args:
        theirs: the samples in its tokens, and which of these meet the student's.
        ours: in the student's, and which of these meet its.
    """
    return {**padded(theirs), "met": padded(ours)["next"]}


def padded(samples: list[Marked]) -> Inputs:
    """Return samples, each with which of its tokens are learnt, as a batch.

    Padding is any token: what is real is told by length, so that an end token that pads as well stays one.
    """
    longest = max(len(ids) for ids, _ in samples)
    ids_BL = np.zeros((len(samples), longest), dtype=np.int64)
    next_BL = np.zeros((len(samples), longest), dtype=bool)
    for row, (ids, learnt) in enumerate(samples):
        ids_BL[row, : len(ids)] = ids
        next_BL[row, : len(ids) - 1] = learnt[1:]
    lengths = torch.tensor([len(ids) for ids, _ in samples])
    return {"ids": torch.from_numpy(ids_BL), "next": torch.from_numpy(next_BL), "lengths": lengths}
