"""Batches on their way to a card: through pinned memory that is used again, so that the host need not wait.

From other memory CUDA copies while the host stands by.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdtool.engine import tree

_APART = 64
"""Bytes of which each tensor's place in pinned memory is a multiple: any type may begin there."""


class Staging:
    """Copies trees of tensors to a device, those of one tree together.

    On CUDA a tree goes through one of a few pieces of pinned memory, each as large as the largest tree that it has
    held. A piece is used again once its copies are done, for which the host waits: it is never more trees ahead than
    there are pieces. Elsewhere trees are copied as they come.

    Args:
        device: where trees go.
        pieces: of pinned memory.
    """

    def __init__(self, device: torch.device, pieces: int = 2):
        self.device = device
        self.pieces = [_Piece() for _ in range(pieces)] if device.type == "cuda" else []

    def __call__(self, given: Any) -> Any:
        """Return a tree on the device; what is there stays what it is."""
        if not self.pieces:
            return tree.to(given, self.device)
        piece = self.pieces.pop(0)
        self.pieces.append(piece)
        return piece.send(given, self.device)


class _Piece:
    """Pinned memory, and what tells that nothing is copied from it any more."""

    def __init__(self) -> None:
        self.memory = torch.empty(0, dtype=torch.uint8)
        self.copied: torch.cuda.Event | None = None

    def send(self, given: Any, device: torch.device) -> Any:
        if self.copied is not None:
            self.copied.synchronize()
        size = sum(_room(each) for each in tree.tensors(given) if _is_plain(each))
        if size > self.memory.numel():
            # Ever larger batches are not to pin new memory each time; and whoever asks first may be in inference mode.
            with torch.inference_mode(False):
                self.memory = torch.empty(1 << (size - 1).bit_length(), dtype=torch.uint8, pin_memory=True)
        begin = 0

        def send(tensor: Tensor) -> Tensor:
            nonlocal begin
            pinned = tensor
            if _is_plain(tensor):
                pinned = self.memory[begin : begin + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
                pinned.copy_(tensor)
                begin += _room(tensor)
            return pinned.to(device, non_blocking=True)

        sent = tree.apply(given, send)
        self.copied = torch.cuda.Event()
        self.copied.record()
        return sent


def _is_plain(tensor: Tensor) -> bool:
    """Tell whether a tensor is in memory from which the host would have to copy: of the CPU, and not pinned."""
    return tensor.device.type == "cpu" and not tensor.is_pinned()


def _room(tensor: Tensor) -> int:
    return -(-tensor.nbytes // _APART) * _APART
