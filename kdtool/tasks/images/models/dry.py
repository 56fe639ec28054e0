"""Dry forwards of image networks: noise of the right shape, and the sizes that a network runs at."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdtool.engine.dry import undisturbed


def dry_images(
    module: nn.Module, image_size: int, channels: int = 3, batch: int = 2, device: torch.device | None = None
) -> Tensor:
    """Return (batch, channels, side, side) fixed noise of a network's own type, on its device unless told."""
    weight = next((p for p in module.parameters() if p.is_floating_point()), None)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, channels, image_size, image_size, generator=generator)
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


def runnable_size(module: nn.Module, channels: int = 3) -> int:
    """Return an image size that a network runs at.

    Raises:
        Exception: what the network raised at its likeliest size, where it runs at none.
    """
    first: Exception | None = None
    for size in own_sizes(module):
        try:
            with undisturbed(module):
                module(dry_images(module, size, channels))
            return size
        except Exception as error:
            first = first or error
    assert first is not None
    raise first
