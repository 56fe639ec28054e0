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
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Run the body in evaluation mode without gradient; modes, buffers and generators come back as they were."""
    modes = [(child, child.training) for child in module.modules()]
    devices = {parameter.device for parameter in module.parameters()}
    cuda = sorted(device.index for device in devices if device.type == "cuda" and device.index is not None)
    with torch.random.fork_rng(devices=cuda), torch.no_grad(), kept_buffers(module):
        module.eval()
        try:
            yield
        finally:
            for child, training in modes:
                child.training = training


def dry_images(module: nn.Module, image_size: int, batch: int = 2, device: torch.device | None = None) -> Tensor:
    """Return (batch, 3, image_size, image_size) fixed noise of a network's own type, on its device unless told."""
    weight = next((p for p in module.parameters() if p.is_floating_point()), None)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, image_size, image_size, generator=generator)
    if weight is None:
        return images.to(device) if device is not None else images
    return images.to(device if device is not None else weight.device, weight.dtype)


def own_sizes(module: nn.Module) -> list[int]:
    """Return the image sizes that a network may be run at, the likeliest first."""
    traits = getattr(module, "_traits", {}).get("img_size")
    patches = getattr(getattr(module, "patch_embed", None), "img_size", None)
    source = (getattr(module, "pretrained_cfg", None) or {}).get("input_size")
    sizes = [size[-1] if isinstance(size, (tuple, list)) else size for size in (traits, patches, source) if size]
    return [*sizes, 32, 64, 128, 224]


def runnable_size(module: nn.Module) -> int:
    """Return an image size that a network runs at.

    Raises:
        Exception: what the network raised at its likeliest size, where it runs at none.
    """
    first: Exception | None = None
    for size in own_sizes(module):
        try:
            with undisturbed(module):
                module(dry_images(module, size))
            return size
        except Exception as error:
            first = first or error
    assert first is not None
    raise first
