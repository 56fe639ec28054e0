"""From an image file's contents to pixels: in colour, and as grey or with opacity where networks take that."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps, features

UNREADABLE = (Exception,)
"""What PIL raises on what is no image, is cut short, or would be absurdly large: nearly anything."""

READER = 2
"""Raised when a file comes to be read as other pixels, which teachers' kept outputs follow from. 2: photos are turned
upright as their tags say."""

ORIENTATION = 0x0112
"""The number of EXIF's tag."""

LYING = (5, 6, 7, 8)
"""Its values for images that lie on their side."""

MAX_ASPECT = 1000
"""Longest side over shortest: resized by its short side, a picture of 1 x 60000 pixels would fill the memory."""

HEIF = frozenset({".heic", ".heif"})
"""Endings of what phones write, which a package of its own reads: the extra ``heic``."""

PROGRAMS = {"EPS", "WMF", "GRIB", "HDF5", "BUFR", "STUB", "FPX"}
"""Formats that PIL reads by other programs or not itself; a file's name does not tell its format."""


def upright(image: Any) -> Any:
    """Return a PIL image as its orientation tag says that it is seen; itself where it has none.

    A phone's photos lie on their side otherwise. A block of tags that cannot be read says nothing.
    """
    image.load()
    try:
        return image if image.getexif().get(ORIENTATION, 1) == 1 else ImageOps.exif_transpose(image)
    except Exception:  # whatever Pillow meets in the tags; the pixels are there
        return image


MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""PIL's name of the pixels that a network of so many channels takes."""


def with_channels(image: Image.Image, channels: int) -> Image.Image:
    """Return a PIL image with one channel (grey), three (RGB) or four (RGBA)."""
    mode = MODES[channels]
    return image if image.mode == mode else image.convert(mode)


def in_colour(image: Any) -> Image.Image:
    """Return a PIL image in RGB, or in RGBA where it says how opaque its pixels are; upright.

    Grey images of 16 bits are brought to 8 first; PIL would clip them to white.
    """
    image = upright(image)
    if image.mode.startswith("I"):  # "I;16" and its byte orders; "I" is how older versions of PIL open such files
        values = np.asarray(image).astype(np.int64)
        image = Image.fromarray(((values.clip(0, 65535) + 128) // 257).astype(np.uint8))
    opacity = image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info
    converted: Image.Image = with_channels(image, 4 if opacity else 3)
    return converted


def decode_bytes(data: bytes) -> Image.Image:
    """Return the image in a file's contents; see ``in_colour``.

    Raises:
        any of ``UNREADABLE``: it is no image that PIL can read whole.
    """
    return decode(io.BytesIO(data))


Enough = Callable[[tuple[int, int]], tuple[int, int]]
"""From an image's width and height, as it is seen, to those that are enough of it."""


def decode(file: str | IO[bytes], enough: Enough | None = None) -> Image.Image:
    """Return the image in a file; see ``in_colour``.

    Args:
        file: its path, or it, opened.
        enough: JPEG is decoded at a half, a quarter or an eighth where that leaves so many pixels. None: whole.

    Raises:
        any of ``UNREADABLE``: it is no image that PIL can read whole.
    """
    with Image.open(file, formats=_formats()) as image:
        if max(image.size) > MAX_ASPECT * min(image.size):
            raise ValueError(f"{image.size[0]} x {image.size[1]} pixels are no picture")
        if enough is not None and image.format == "JPEG":
            _draft(image, enough)
        return in_colour(image)


def _draft(image: Any, enough: Enough) -> None:
    width, height = image.size
    try:
        lies = image.getexif().get(ORIENTATION, 1) in LYING
    except Exception:  # as in ``upright``
        lies = False
    wanted = enough((height, width) if lies else (width, height))
    image.draft("RGB", wanted[::-1] if lies else wanted)


@cache
def endings() -> frozenset[str]:
    """Return how the names of files end that are read as images here."""
    usual = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
    avif = {".avif"} if features.check("avif") else set()
    return frozenset(usual | avif | (HEIF if find_spec("pillow_heif") is not None else set()))


@cache
def _formats() -> tuple[str, ...]:
    if endings() >= HEIF:
        import pillow_heif

        pillow_heif.register_heif_opener()
    Image.init()
    return tuple(sorted(set(Image.OPEN) - PROGRAMS))
