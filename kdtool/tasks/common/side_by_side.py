"""Batches that hold further views of each sample beside the usual one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from kdtool.engine.job import Loaded
from kdtool.engine.tree import Views


class SideBySide:
    """A split's batches with further views.

    Args:
        usual: the batches.
        further: by the view's name, batches of the same samples in the same order, or what makes the view of the usual
            one's inputs.
    """

    def __init__(self, usual: Any, further: Mapping[str, Any | Callable[[Any], Any]]):
        self.usual, self.further = usual, dict(further)
        self.placement = getattr(usual, "placement", "")

    @property
    def steps(self) -> int:
        """Batches in an epoch, over all processes."""
        steps: int = self.usual.steps
        return steps

    @property
    def decides(self) -> dict[str, Any]:
        """What the usual inputs follow from; what further ones do besides, the recipe's keys say."""
        found: dict[str, Any] = self.usual.decides
        return found

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Loaded]:
        """Yield the batches of an epoch from batch ``start`` on."""
        yield from self._joined(lambda batches: batches.epoch(epoch, start))

    def view(self, view: int, batches: Sequence[Tensor]) -> Iterator[Loaded]:
        """Yield one view of samples, and the further ones that belong to it, each batch given by its positions."""
        yield from self._joined(lambda each: each.view(view, list(batches)))

    def _joined(self, read: Callable[[Any], Iterator[Loaded]]) -> Iterator[Loaded]:
        others = {name: read(each) for name, each in self.further.items() if not callable(each)}
        for loaded in read(self.usual):
            made = {
                name: each(loaded.inputs) if callable(each) else next(others[name]).inputs
                for name, each in self.further.items()
            }
            yield dataclasses.replace(loaded, inputs=Views(loaded.inputs, made))
