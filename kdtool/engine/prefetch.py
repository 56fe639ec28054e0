"""Batches made ready one step ahead, on a CUDA stream of their own."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from kdtool.engine.job import Loaded
from kdtool.engine.tree import tensors


class Prefetcher:
    """Makes the next batch while the present step runs, all on one stream: memory is kept by the stream that used it.

    Args:
        device: where batches go. Elsewhere than on CUDA nothing runs beside anything, and they pass as they are.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.beside = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, batches: Iterator[Loaded]) -> Iterator[Loaded]:
        """Yield the same batches, which are made by operations on the device's current stream."""
        if self.beside is None:
            yield from batches
            return
        ahead = self._make(batches)
        while ahead is not None:
            batch, now = ahead, torch.cuda.current_stream(self.device)
            now.wait_stream(self.beside)
            for tensor in (*tensors(batch.inputs), batch.labels, batch.index):
                # Else its memory might be handed out again on the other stream while this one still reads it.
                tensor.record_stream(now)
            ahead = self._make(batches)
            yield batch

    def _make(self, batches: Iterator[Loaded]) -> Loaded | None:
        with torch.cuda.stream(self.beside):
            return next(batches, None)
