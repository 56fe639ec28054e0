"""Logits that are made when they are needed."""

from __future__ import annotations

import torch
from torch import nn

from kdtool.engine.rows import CHUNK, Deferred, chunks, whole


def test_parts_are_the_whole() -> None:
    hidden, head = torch.randn(600, 4), nn.Linear(4, 7)
    deferred = Deferred(hidden, head, 5)
    assert deferred.shape == (600, 5)
    assert whole(deferred).shape == (600, 5)
    sizes = chunks(deferred)
    assert sum(sizes) == 600
    assert max(sizes) == CHUNK
    torch.testing.assert_close(torch.cat([whole(part) for part in deferred.split(sizes)]), head(hidden)[:, :5])


def test_logits_that_are_there_are_looked_at_whole() -> None:
    logits = torch.randn(600, 3)
    assert whole(logits) is logits
    assert chunks(logits) == [600]
    assert chunks(Deferred(torch.randn(2 * CHUNK, 3), nn.Identity(), 3)) == [CHUNK, CHUNK]


def test_half_precision_comes_back_in_full() -> None:
    assert whole(Deferred(torch.randn(3, 4, dtype=torch.bfloat16), nn.Identity(), 4)).dtype == torch.float32
