"""Randomness as a function: every choice is computed from what it belongs to, never drawn from a stream.

What is random about a sample follows from (view_seed, view, sample, purpose); the order of samples from (seed,
epoch); dropout from (seed, stage, step, micro-step, rank). So nothing depends on worker or process counts, and a
checkpoint holds no generator state.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # the 64-bit golden ratio as a signed integer
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def key_of(*parts: int | str) -> int:
    """Return a 63-bit key, equal on every machine, of integers and strings in order."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def _shift(x: Any, bits: int) -> Any:
    # The >> of signed integers keeps the sign; the generator wants a logical shift.
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mixed(key: int, x: Any) -> Any:
    """Mix int64 numbers of torch or numpy, both of which wrap around."""
    x = x * _GOLDEN + key
    for _ in range(2):
        x = (x ^ _shift(x, 30)) * _MIX_1
        x = (x ^ _shift(x, 27)) * _MIX_2
        x = x ^ _shift(x, 31)
        x = x + _GOLDEN
    return x


def hashed(key: int, sample: Tensor) -> Tensor:
    """Mix a key into int64 sample numbers of any shape: splitmix64's finaliser (Steele et al., OOPSLA 2014), twice."""
    mixed: Tensor = _mixed(key, sample.to(torch.int64))
    return mixed


def uniforms(sample: Tensor, purpose: str, view_seed: int, view: int) -> Tensor:
    """Return float64 numbers in [0, 1), one a sample.

    Args:
        sample: int64 sample numbers on the CPU, any shape but that of a scalar.
        purpose: what the number decides ("crop-x", "flip", ...): other purposes are independent.
        view_seed: ``data.view_seed``.
        view: which view of the sample.
    """
    # numpy, whose operations on a batch's few numbers take a fraction of torch's time.
    mixed = _mixed(key_of(purpose, view_seed, view), sample.numpy())
    return torch.from_numpy(_shift(mixed, 11) * 2.0**-53)


def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """Return the permutation of ``range(count)`` that epoch ``epoch`` of a run with ``seed`` follows."""
    return np.random.Generator(np.random.Philox(key_of("order", seed, epoch))).permutation(count)


def seed_torch(*parts: int | str) -> None:
    """Seed torch's generators (first weights, dropout) from what they are for."""
    key = key_of(*parts)
    torch.default_generator.manual_seed(key)
    # torch.manual_seed would note where it was called from for every device that is absent, a millisecond a step.
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(key)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(key)


@contextmanager
def seeded_libraries(*parts: int | str) -> Iterator[None]:
    """Run a library's own augmentation as a function of ``parts``: its global generators are seeded and restored."""
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    key = key_of(*parts)
    random.seed(key)
    np.random.seed(key & 0xFFFFFFFF)
    torch.default_generator.manual_seed(key)
    try:
        yield
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])
        torch.set_rng_state(state[2])
