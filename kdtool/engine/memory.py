"""A batch that the device has no room for: what to say, and how to split it."""

from __future__ import annotations

import torch

from kdtool.engine.job import Job
from kdtool.engine.processes import world_size
from kdtool.errors import InputError, RunError

OUT_OF_MEMORY = (torch.OutOfMemoryError,)


def check_split(pieces: int, coupled: bool, phase: str) -> None:
    """Refuse to split a batch whose samples are related while it is split over processes already.

    Raises:
        InputError: so it is.
    """
    if pieces > 1 and coupled and world_size() > 1:
        raise InputError(
            f"{phase}: train.accumulate={pieces} cannot split a batch whose samples the method relates to one another "
            "while several processes share it: set it to 1, or use more processes."
        )


def too_large(job: Job, batch: int, pieces: int, coupled: bool, error: BaseException) -> int:
    """Return into how many micro-batches to split a batch that found no memory in ``pieces``.

    Args:
        job: what is trained; ``train.auto_batch`` allows splitting.
        batch: samples of this process.
        pieces: micro-batches so far.
        coupled: the loss relates samples to one another.
        error: what the device said.

    Raises:
        RunError: splitting is not allowed, or cannot help; names the batch size, the peak and what helps.
    """
    micro = -(-batch // pieces)
    peak = ""
    if job.device.type == "cuda":
        peak = f", peak {torch.cuda.max_memory_allocated(job.device) / 2**30:.1f} GiB"
        torch.cuda.empty_cache()
    said = f"{job.phase}: {job.device} has no memory for {micro} samples at once{peak}."
    if coupled and world_size() > 1:
        raise RunError(
            f"{said} This method relates all samples of a batch, which is split over processes already: use a smaller "
            "--batch-size, --precision bf16 or more processes."
        ) from error
    if job.train.auto_batch and micro > 1:
        return pieces * 2
    help_ = "use a smaller --batch-size or --image-size, --precision bf16"
    if micro > 1:
        help_ += ", or --auto-batch, which splits the batch and keeps its size"
    raise RunError(f"{said} What helps: {help_}.") from error
