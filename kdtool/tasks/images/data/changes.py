"""What happens to samples in a view, drawn before: numbers that a device takes for many batches in one copy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Changes:
    """A tree of tensors (``kdtool.engine.tree``), a row a sample. Those of what is off have rows of no numbers.

    Attributes:
        moves: (N, 3) int64, where a sample's window begins in the padded image, y and x, and 1 for a flip.
        colours: (N, 3) float32 factors of contrast, brightness and saturation; (N, 2) for images that are grey.
        boxes: (N, 4) int64 bounds of what is erased: the first row and that behind the last, and the columns' alike.
    """

    moves: Tensor
    colours: Tensor
    boxes: Tensor

    def apply(self, function: Callable[[Tensor], Tensor]) -> Changes:
        """Return these with every tensor replaced."""
        return Changes(function(self.moves), function(self.colours), function(self.boxes))

    def split(self, sizes: Sequence[int]) -> list[Changes]:
        """Return the samples in parts."""
        columns = (each.split(list(sizes)) for each in (self.moves, self.colours, self.boxes))
        return [Changes(*row) for row in zip(*columns, strict=True)]
