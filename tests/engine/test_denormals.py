"""Numbers too small for the processor's fast path are zero while a run computes."""

from __future__ import annotations

import torch

import kdtool


def test_a_run_flushes_denormals() -> None:
    torch.set_flush_denormal(False)
    smallest, less = torch.full((64,), 2.0**-126), torch.full((64,), 0.5)
    assert (smallest * less > 0).all()
    kdtool.run({"method": "none", "student": "test_efficientnet", "train.epochs": 1}, dry_run=True)
    assert (smallest * less == 0).all()
    assert (smallest * 2 > 0).all()
