"""Photos as cameras write them: upright whatever the file's kind, in every mode and format that Pillow has."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from kdtool.tasks.images.data.decode import ORIENTATION, decode, decode_bytes, endings, in_colour

TURNS = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: p.transpose(1, 0, 2)[:, ::-1],
    7: lambda p: p.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda p: p.transpose(1, 0, 2)[::-1],
}
"""EXIF 2.32, table of tag 274: what turns the stored pixels into those that are seen."""


def _stored(size: tuple[int, int] = (30, 20)) -> Image.Image:
    """Return a picture of four colours, none of which has another's place after any turn."""
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    pixels[: size[1] // 2, : size[0] // 2] = (250, 10, 10)
    pixels[: size[1] // 2, size[0] // 2 :] = (10, 250, 10)
    pixels[size[1] // 2 :, : size[0] // 2] = (10, 10, 250)
    return Image.fromarray(pixels)


def _written(image: Image.Image, kind: str, orientation: int) -> bytes:
    exif, out = Image.Exif(), io.BytesIO()
    exif[ORIENTATION] = orientation
    lossless = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}, "AVIF": {"quality": 100}}
    image.save(out, kind, exif=exif, **lossless.get(kind, {}))
    return out.getvalue()


KINDS = ["JPEG", "PNG", "WEBP", "TIFF", *(["AVIF"] if features.check("avif") else [])]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", TURNS)
def test_a_photo_is_upright(kind: str, orientation: int) -> None:
    expected = TURNS[orientation](np.asarray(_stored()).astype(int))
    found = np.asarray(decode_bytes(_written(_stored(), kind, orientation))).astype(int)
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() < (0.01 if kind not in ("JPEG", "AVIF") else 12)


def test_a_photo_that_is_only_looked_at_is_upright_too() -> None:
    large = _stored((600, 400))
    data = _written(large, "JPEG", 6)
    small = decode(io.BytesIO(data), enough=lambda size: (64, 64))
    assert small.height > small.width
    assert small.width < 400
    whole = decode_bytes(data).resize(small.size, Image.Resampling.BOX)
    assert np.abs(np.asarray(small).astype(int) - np.asarray(whole)).mean() < 12


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_that_there_is_not_changes_nothing(orientation: int) -> None:
    assert decode_bytes(_written(_stored(), "PNG", orientation)).size == (30, 20)


def test_tags_that_cannot_be_read_say_nothing() -> None:
    data = _written(_stored(), "JPEG", 6)
    at = data.index(b"Exif\0\0") + 6
    for broken in (b"XX*\0", b"MM\0*\xff\xff\xff\xff"):
        found = decode_bytes(data[:at] + broken + data[at + len(broken) :])
        assert found.size == (30, 20)


def test_images_from_python_are_turned_as_well() -> None:
    opened = Image.open(io.BytesIO(_written(_stored(), "PNG", 8)))
    assert np.array_equal(np.asarray(in_colour(opened)), TURNS[8](np.asarray(_stored())))


def test_sixteen_bits_and_palettes_are_turned_as_well(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    levels = np.linspace(0, 65535, 600).astype(np.uint16).reshape(20, 30)
    Image.fromarray(levels).save(tmp_path / "deep.png", exif=exif)
    found = np.asarray(decode(str(tmp_path / "deep.png")))[..., 0]
    assert np.abs(found.astype(float) - levels.T[:, ::-1] / 257).max() <= 1
    _stored().quantize(8).save(tmp_path / "palette.png", exif=exif)
    assert decode(str(tmp_path / "palette.png")).size == (20, 30)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF")
def test_avif_is_read() -> None:
    assert ".avif" in endings()


def test_heic_is_read_where_its_package_is(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    _stored((64, 48)).save(tmp_path / "photo.heic")
    assert ".heic" in endings()
    assert decode(str(tmp_path / "photo.heic")).size == (64, 48)
