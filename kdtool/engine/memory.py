"""A batch that the device has no room for: what to say, and how to split it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from kdtool.engine.job import Job
from kdtool.engine.processes import largest, world_size
from kdtool.errors import InputError, RunError

_SAID = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "can't allocate memory")
"""What those say who find no memory and do not raise torch's own error: CUDA itself, its libraries, MPS, the CPU."""

T = TypeVar("T")


def found_no_memory(error: RuntimeError) -> bool:
    """Tell whether an error of torch's says that the device has no memory."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _SAID)


def together(attempt: Callable[[], T], agree: bool) -> T:
    """Return what an attempt gives; where it finds no memory, raise that.

    Args:
        attempt: runs on the device, and waits for no other process where they are to agree.
        agree: where any process finds none, raise on all of them, so that all repeat the attempt or none.

    Raises:
        torch.OutOfMemoryError: there was none, here or in another process.
    """
    problem = None
    try:
        found = attempt()
    except RuntimeError as error:
        if not found_no_memory(error):
            raise
        # Not the error itself, whose frames hold what the attempt had made so far.
        problem = str(error)
    if agree and largest(int(problem is not None)) and problem is None:
        problem = "another process found no memory"
    if problem is not None:
        raise torch.OutOfMemoryError(problem)
    return found


def agreeing(job: Job, coupled: bool) -> bool:
    """Tell whether processes agree at each step on whether all of them found memory for it.

    A coupled loss makes them wait for one another on the way, and is not split among several of them.
    """
    return job.train.auto_batch and world_size() > 1 and not coupled


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
