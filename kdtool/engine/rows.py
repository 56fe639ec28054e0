"""Logits that are not there yet: hidden rows, and the head that makes them logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeGuard

from torch import Tensor, nn

from kdtool.losses import at_least_fp32

CHUNK = 64
"""Rows whose logits are there at once."""

Context = Callable[[], AbstractContextManager[object]]


class Late(Protocol):
    """(R, K) logits that are made when they are asked for, so that nobody need hold all of them."""

    @property
    def shape(self) -> tuple[int, int]:
        """(R, K)."""
        ...

    def whole(self, beside: Tensor | None = None) -> Tensor:
        """Return the (R, K) logits, at least fp32.

        Args:
            beside: the student's (R, K) logits of the same rows: what is not known of a teacher's may be taken to be
                like them.
        """
        ...

    def split(self, sizes: Sequence[int]) -> list[Late]:
        """Return parts of so many rows."""
        ...


def is_late(logits: object) -> TypeGuard[Late]:
    """Tell whether logits are still to be made."""
    return not isinstance(logits, Tensor)


def whole(logits: Tensor | Late, beside: Tensor | None = None) -> Tensor:
    """Return (R, K) logits, whether they were there or not; ``beside`` as for ``Late.whole``."""
    return logits if isinstance(logits, Tensor) else logits.whole(None if beside is None else beside.detach())


def chunks(logits: Tensor | Late) -> list[int]:
    """Return how many rows at a time are to be looked at: all of logits that are there."""
    rows = logits.shape[0]
    size = CHUNK if is_late(logits) else rows
    return [min(size, rows - start) for start in range(0, rows, max(size, 1))]


class Deferred:
    """Logits as a network's last hidden states and its head, which is applied when they are needed.

    Args:
        hidden_RD: (R, D) the head's input.
        head: maps (R, D) to (R, V).
        classes: K <= V: the first columns count.
        context: gives what the head runs under, such as autocast.
    """

    def __init__(self, hidden_RD: Tensor, head: nn.Module, classes: int, context: Context = nullcontext):
        self.hidden_RD, self.head, self.classes, self.context = hidden_RD, head, classes, context

    @property
    def shape(self) -> tuple[int, int]:
        """(R, K)."""
        return len(self.hidden_RD), self.classes

    def whole(self, beside: Tensor | None = None) -> Tensor:
        """Return the (R, K) logits, at least fp32; nothing of them is unknown."""
        with self.context():
            return at_least_fp32(self.head(self.hidden_RD)[:, : self.classes])

    def split(self, sizes: Sequence[int]) -> list[Late]:
        """Return parts of so many rows."""
        return [self.of(part) for part in self.hidden_RD.split(list(sizes))]

    def of(self, hidden_RD: Tensor) -> Deferred:
        """Return the logits of other hidden states."""
        return Deferred(hidden_RD, self.head, self.classes, self.context)

    def under(self, context: Context) -> Deferred:
        """Return the same, with the head run under another context."""
        return Deferred(self.hidden_RD, self.head, self.classes, context)
