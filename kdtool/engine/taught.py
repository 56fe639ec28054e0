"""Rows that teachers speak of, where they are not all of a batch's.

A network that cuts a text into other tokens has none for some of the student's rows. Its outputs have a row there all
the same, of no meaning, so that everybody's are in step; a method is shown the others alone, and means are over these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from kdtool.engine.chunks import rows_of
from kdtool.losses import widened
from kdtool.method import Batch, Terms


@dataclass(frozen=True)
class Taught:
    """Which rows of a part of the batch the teachers speak of.

    Attributes:
        rows: (R,) bool.
        scale: factor of the method's terms, for a part with another share of such rows than the whole batch.
    """

    rows: Tensor
    scale: Tensor | float = 1.0

    def chunk(self, rows: slice) -> Taught:
        """Return those of a chunk of the rows, whose mean is over its own and counts by how many rows it has."""
        here = self.rows[rows]
        share = widened(here.sum().float()) / widened(self.rows.sum().float()).clamp(min=1)
        return Taught(here, self.scale * share * (len(self.rows) / len(here)))

    def terms(
        self, loss: Callable[[Batch], Terms], batch: Batch, task_loss: Callable[[Tensor, Tensor], Tensor]
    ) -> Terms:
        """Return a loss's terms of these rows; where there are none, zeros that have a gradient.

        Args:
            loss: a stage's.
            batch: with all rows.
            task_loss: the hard-label loss of logits and labels.
        """
        places = self.rows.nonzero().squeeze(1)
        scale = self.scale
        if not len(places):
            places, scale = places.new_zeros(1), 0.0
        return {name: scale * term for name, term in loss(self._of(batch, places, task_loss)).items()}

    @staticmethod
    def _of(batch: Batch, places: Tensor, task_loss: Callable[[Tensor, Tensor], Tensor]) -> Batch:
        labels = batch.labels[places]
        outs: list[Any] = [rows_of(out, places) for out in (batch.student, *batch.teachers)]
        return replace(
            batch, labels=labels, index=batch.index[places], student=outs[0], teachers=outs[1:],
            task_loss=lambda logits: task_loss(logits, labels),
            drawn={name: values[places] for name, values in batch.drawn.items()},
        )  # fmt: skip
