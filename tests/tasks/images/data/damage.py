"""Image files damaged in ten ways, in three formats."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, PngImagePlugin

FORMATS = ("JPEG", "PNG", "WEBP")


def encoded(kind: str, size: tuple[int, int] = (40, 30)) -> bytes:
    pixels = np.random.Generator(np.random.Philox(7)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def claimed(kind: str, data: bytes, side: int) -> bytes:
    """Return the file with other dimensions in its header: a decompression bomb where ``side`` is large."""
    found = bytearray(data)
    if kind == "PNG":
        found[16:24] = struct.pack(">II", side, side)
        found[29:33] = struct.pack(">I", zlib.crc32(bytes(found[12:29])))
    elif kind == "JPEG":
        at = next(i for i in range(len(found)) if found[i] == 0xFF and found[i + 1] in (0xC0, 0xC1, 0xC2))
        found[at + 5 : at + 9] = struct.pack(">HH", min(side, 65500), min(side, 65500))
    else:
        at = found.index(b"VP8 ") + 14
        found[at : at + 4] = struct.pack("<HH", min(side, 16383), min(side, 16383))
    return bytes(found)


def flipped(data: bytes, share: float) -> bytes:
    """Return the file with every bit flipped in a stretch that begins at ``share`` of it."""
    at = int(len(data) * share)
    return data[:at] + bytes(byte ^ 0xFF for byte in data[at : at + 64]) + data[at + 64 :]


DAMAGE: dict[str, Callable[[str, bytes], bytes]] = {
    "empty": lambda kind, data: b"",
    "a byte": lambda kind, data: data[:1],
    "the header alone": lambda kind, data: data[:12],
    "cut in the middle": lambda kind, data: data[: len(data) // 2],
    "cut near the end": lambda kind, data: data[:-40],
    "text": lambda kind, data: b"<html>not found</html>",
    "no signature": lambda kind, data: b"\0" * 8 + data[8:],
    "claims to be huge": lambda kind, data: claimed(kind, data, 60000),
    "flipped header": lambda kind, data: flipped(data, 0.005),
    "zeros": lambda kind, data: b"\0" * len(data),
}
"""Each makes every format unreadable; what decoders cannot notice (noise in the middle of a JPEG) is no damage here."""


def all_damaged() -> Iterator[tuple[str, bytes]]:
    """Yield (name of a file, content) of every damage in every format."""
    for kind in FORMATS:
        for number, damage in enumerate(DAMAGE.values()):
            suffix = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}[kind]
            yield f"{number:02}.{suffix}", damage(kind, encoded(kind))


def narrow() -> bytes:
    """Return a small file of 1 x 60000 pixels, gigabytes once its short side is resized."""
    out = io.BytesIO()
    Image.new("RGB", (1, 60000)).save(out, "PNG")
    return out.getvalue()


def swollen_text() -> bytes:
    """Return a PNG with a comment of 128 MB in a few kilobytes."""
    note = PngImagePlugin.PngInfo()
    note.add_text("Comment", "x" * (1 << 27), zip=True)
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG", pnginfo=note)
    return out.getvalue()


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
"""A program for a printer that PIL would hand to ghostscript."""
