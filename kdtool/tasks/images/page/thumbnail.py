"""Small pictures for a page, as the network sees them: in colour, grey, or with their opacity."""

from __future__ import annotations

import base64
import io

from PIL import Image

from kdtool.tasks.images.data.dataset import Split
from kdtool.tasks.images.data.decode import with_channels

SIDE = 96
"""Pixels of the longer side, at most."""

QUALITY = 80
"""Of JPEG, which takes a few kilobytes for a photo of that size."""


def picture(split: Split, position: int, channels: int) -> tuple[Image.Image, bool]:
    """Return a split's image in small, and whether it is that one, or another that stands in for one unreadable.

    Args:
        split: of the data.
        position: in the split.
        channels: of the networks' inputs.

    Raises:
        InputError: neither can be read.
    """
    image, replaced = split.pool().read(split.images, int(split.rows[position]))
    image = with_channels(image, channels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return image, replaced is None


def png(image: Image.Image) -> str:
    """Return a picture as PNG, in base64."""
    return _encoded(image, format="PNG")


def small(image: Image.Image) -> tuple[str, str]:
    """Return a picture in few bytes: its format, "jpeg" ("png" where it has opacity), and it, in base64."""
    if image.mode == "RGBA":
        return "png", png(image)
    return "jpeg", _encoded(image, format="JPEG", quality=QUALITY)


def _encoded(image: Image.Image, **how: object) -> str:
    stream = io.BytesIO()
    image.save(stream, **how)  # type: ignore[arg-type]
    return base64.b64encode(stream.getvalue()).decode()
