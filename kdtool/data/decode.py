"""From an image file's contents to RGB pixels."""

from __future__ import annotations

import io
import struct
from typing import IO, Any

import numpy as np
from PIL import Image

UNREADABLE = (OSError, SyntaxError, ValueError, TypeError, EOFError, struct.error, Image.DecompressionBombError)
"""What PIL raises on what is no image, is cut short, or would be absurdly large."""


def to_rgb(image: Any) -> Image.Image:
    """Return a PIL image in RGB.

    As timm and torchvision read it: transparency is dropped, an orientation tag is not applied. Grey images of 16 bits
    are brought to 8 first; PIL would clip them to white.
    """
    if image.mode.startswith("I"):  # "I;16" and its byte orders; "I" is how older versions of PIL open such files
        values = np.asarray(image).astype(np.int64)
        image = Image.fromarray(((values.clip(0, 65535) + 128) // 257).astype(np.uint8))
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")  # PIL warns on the direct way; the colours are the same
    converted: Image.Image = image.convert("RGB")
    return converted


def decode_bytes(data: bytes) -> Image.Image:
    """Return the image in a file's contents, in RGB.

    Raises:
        any of ``UNREADABLE``: it is no image that PIL can read whole.
    """
    return decode(io.BytesIO(data))


def decode(file: str | IO[bytes]) -> Image.Image:
    """Return the image in a file, in RGB.

    Raises:
        any of ``UNREADABLE``: it is no image that PIL can read whole.
    """
    with Image.open(file) as image:
        return to_rgb(image)
