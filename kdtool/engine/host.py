"""What this process's processor and memory are told before it computes on them."""

from __future__ import annotations

import ctypes
import os
import sys

import torch

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Numbers of glibc's mallopt, from its malloc.h."""


def flush_denormals() -> None:
    """Let the CPU take numbers below 1e-38 for zero; threads that start later inherit it.

    The moments of weights that get no gradient for a thousand steps (of pixels that are always black, say) decay to
    there, and an optimizer's step over such numbers takes ten times as long.
    """
    torch.set_flush_denormal(True)


def keep_freed_memory() -> None:
    """Let the C library keep the memory that a step frees, for the next step; it is the process's until its end.

    As it comes, glibc hands large pieces back to the system and gets them anew, emptied page by page: up to a
    third of a step's time on the CPU. Elsewhere than under glibc, and where the environment has settings for malloc
    of its own (MALLOC_...), nothing changes.
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, -1)
        mallopt(_MMAP_MAX, 0)
