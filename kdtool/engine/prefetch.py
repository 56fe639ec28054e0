"""Batches made ready one step ahead, on a CUDA stream of their own."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from kdtool.engine.job import Loaded
from kdtool.engine.tree import tensors


def prefetched(batches: Iterator[Loaded], device: torch.device) -> Iterator[Loaded]:
    """Yield the same batches; on CUDA the next one's copies and augmentation run beside the present step.

    Args:
        batches: made by operations on the current stream of ``device``.
        device: where they go. Elsewhere than on CUDA nothing runs beside anything, and they pass as they are.
    """
    if device.type != "cuda":
        yield from batches
        return
    beside = torch.cuda.Stream(device)

    def make() -> Loaded | None:
        with torch.cuda.stream(beside):
            return next(batches, None)

    ahead = make()
    while ahead is not None:
        batch, now = ahead, torch.cuda.current_stream(device)
        now.wait_stream(beside)
        for tensor in (*tensors(batch.inputs), batch.labels, batch.index):
            # Else its memory might be handed out again on the other stream while this one still reads it.
            tensor.record_stream(now)
        ahead = make()
        yield batch
