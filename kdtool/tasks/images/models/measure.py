"""What an image network costs at a size of its input."""

from __future__ import annotations

from torch import nn

from kdtool.tasks.common import cost
from kdtool.tasks.common.cost import parameters
from kdtool.tasks.images.models.dry import dry_images

__all__ = ["macs", "parameters"]


def macs(module: nn.Module, image_size: int, channels: int = 3) -> int:
    """Return the multiply-accumulates of one image's forward: convolutions, matrix products and attention."""
    return cost.macs(module, dry_images(module, image_size, channels, batch=1))
