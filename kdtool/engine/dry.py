"""Dry forwards: run a network to see its shapes, and leave no trace in it or in any generator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Kept = list[tuple[nn.Module, str, Tensor, Tensor]]
"""Buffers with their owners, and copies of their contents."""


def copy_buffers(module: nn.Module) -> Kept:
    """Return copies of every buffer: running statistics, memory banks."""
    return [
        (child, name, buffer, buffer.clone())
        for child in module.modules()
        for name, buffer in child.named_buffers(recurse=False)
    ]


@torch.no_grad()
def put_back(kept: Kept) -> None:
    """Make buffers what they were when they were copied."""
    for child, name, buffer, content in kept:
        # The same tensor again, because a network may have replaced it by one of another shape.
        child._buffers[name] = buffer
        if not torch.equal(buffer, content):
            buffer.copy_(content)


@contextmanager
def kept_buffers(module: nn.Module) -> Iterator[None]:
    """Put every buffer back as it was: running statistics, and what a network makes at its first forward."""
    before = copy_buffers(module)
    try:
        yield
    finally:
        put_back(before)


@contextmanager
def undisturbed(module: nn.Module, training: bool = False) -> Iterator[None]:
    """Run the body without gradient in evaluation mode, or in training mode where told.

    Modes, buffers and generators come back as they were.
    """
    modes = [(child, child.training) for child in module.modules()]
    devices = {parameter.device for parameter in module.parameters()}
    cuda = sorted(device.index for device in devices if device.type == "cuda" and device.index is not None)
    with torch.random.fork_rng(devices=cuda), torch.no_grad(), kept_buffers(module):
        module.train(training)
        try:
            yield
        finally:
            for child, training in modes:
                child.training = training
