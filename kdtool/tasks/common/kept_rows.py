"""What a meter keeps where its metrics are of all rows at once."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

Part = tuple[Tensor, Tensor, Tensor]


class KeptRows:
    """Keeps each row: number, label and what the network gave, in the order in which they came."""

    def __init__(self) -> None:
        self.parts: list[Part] = []

    def add(self, logits: Tensor, labels: Tensor, index: Tensor) -> None:
        """Take (R, K) logits or embeddings, (R,) int64 labels (-1: none) and the (R,) numbers of the rows."""
        self.parts.append((index.cpu(), labels.cpu(), logits.float().cpu()))

    def state(self) -> list[Part]:
        """Return what was added."""
        return self.parts

    def merge(self, states: Sequence[list[Part]]) -> None:
        """Replace what was added by what all processes added."""
        self.parts = [part for parts in states for part in parts]
