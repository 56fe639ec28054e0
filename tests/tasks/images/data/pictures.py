"""Small image data that tests write for themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def picture(number: int, size: tuple[int, int] = (20, 16), grey: bool = False) -> Image.Image:
    """Return image ``number`` of (width, height): noise, so that no two are alike."""
    draw = np.random.Generator(np.random.Philox(number))
    width, height = size
    pixels = draw.integers(0, 256, (height, width) if grey else (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write_class_folders(
    root: Path, classes: tuple[str, ...] = ("ant", "bee", "cow"), each: int = 10, first: int = 0, **how: object
) -> Path:
    """Write ``root/CLASS/NUMBER.png`` and return ``root``."""
    number = first
    for name in classes:
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        for _ in range(each):
            picture(number, **how).save(folder / f"{number:04}.png")  # type: ignore[arg-type]
            number += 1
    return root
