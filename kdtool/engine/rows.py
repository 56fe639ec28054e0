"""Logits that are not there yet: hidden rows, and the head that makes them logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from kdtool.losses import at_least_fp32


def whole(logits: Tensor | Deferred) -> Tensor:
    """Return (R, K) logits, whether they were there or not."""
    return logits.whole() if isinstance(logits, Deferred) else logits


CHUNK = 256
"""Rows whose logits are there at once."""


def chunks(logits: Tensor | Deferred) -> list[int]:
    """Return how many rows at a time are to be looked at: all of logits that are there."""
    rows = logits.shape[0]
    if not isinstance(logits, Deferred):
        return [rows]
    return [CHUNK] * (rows // CHUNK) + [rows % CHUNK] * (rows % CHUNK > 0)


def decoded(found: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return what a tapped network gave with its logits whole; to be called in the precision that it ran in."""
    return whole(found[0]), *found[1:]


class Deferred:
    """Logits as a network's last hidden states and its head, which is applied when they are needed.

    Args:
        hidden_RD: (R, D) the head's input.
        head: maps (R, D) to (R, V).
        classes: K <= V: the first columns count.
    """

    def __init__(self, hidden_RD: Tensor, head: nn.Module, classes: int):
        self.hidden_RD, self.head, self.classes = hidden_RD, head, classes

    @property
    def shape(self) -> tuple[int, int]:
        """(R, K)."""
        return len(self.hidden_RD), self.classes

    def whole(self) -> Tensor:
        """Return the (R, K) logits, at least fp32."""
        return at_least_fp32(self.head(self.hidden_RD)[:, : self.classes])

    def split(self, sizes: Sequence[int]) -> list[Deferred]:
        """Return parts of so many rows."""
        return [Deferred(part, self.head, self.classes) for part in self.hidden_RD.split(list(sizes))]
