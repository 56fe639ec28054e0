"""Dry forwards: run a network to see its shapes, and leave no trace in it or in any generator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Places = Sequence[tuple[nn.Module, str]]
"""Buffers, by the module that has each and its name there."""

Kept = list[tuple[nn.Module, str, Tensor, Tensor]]
"""Buffers with their owners, and copies of their contents."""


def buffers_of(*modules: nn.Module) -> Places:
    """Return where every buffer is: running statistics, memory banks."""
    return [
        (child, name)
        for module in modules
        for child in module.modules()
        for name, _ in child.named_buffers(recurse=False)
    ]


def copy_buffers(places: Places) -> Kept:
    """Return copies of buffers."""
    found = ((child, name, child._buffers[name]) for child, name in places)
    return [(child, name, buffer, buffer.clone()) for child, name, buffer in found if buffer is not None]


@torch.no_grad()
def put_back(kept: Kept) -> None:
    """Make buffers what they were when they were copied; the host does not wait for it."""
    for child, name, buffer, content in kept:
        # The same tensor again, because a network may have replaced it by one of another shape.
        child._buffers[name] = buffer
        if not _repeats(buffer):
            buffer.copy_(content)


def changed(kept: Kept) -> Places:
    """Return which buffers are no longer what they were when they were copied; the host waits for each."""
    return [
        (child, name)
        for child, name, buffer, content in kept
        if child._buffers[name] is not buffer or not torch.equal(buffer, content)
    ]


def _repeats(tensor: Tensor) -> bool:
    """Tell whether elements share their memory, as expanded ones do: nothing can have written to them."""
    return any(step == 0 and size > 1 for step, size in zip(tensor.stride(), tensor.shape, strict=True))


@contextmanager
def kept_buffers(*modules: nn.Module) -> Iterator[None]:
    """Put every buffer back as it was: running statistics, and what a network makes at its first forward."""
    before = copy_buffers(buffers_of(*modules))
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
