"""The built-in data set: scikit-learn's 1,797 handwritten digits, 8 x 8 grey (Alpaydin & Kaynak, 1998)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from kdtool.data.sources import Source, Split
from kdtool.data.splits import stratified

TEST_FRACTION = 0.2


@dataclass(frozen=True)
class ArrayImages:
    """Images held as uint8 arrays, (N, H, W) grey or (N, H, W, 3)."""

    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, row: int) -> Image.Image:
        return Image.fromarray(self.pixels[row]).convert("RGB")


def open_digits() -> Source:
    """Return the digits with their fixed stratified test split of 20%."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    pixels = np.round(raw.images * (255 / 16)).astype(np.uint8)
    labels, rows = raw.target.astype(np.int64), np.arange(len(raw.target), dtype=np.int64)
    whole = Split(ArrayImages(pixels), labels, rows)
    keep, held = stratified(labels, rows, TEST_FRACTION, 0, "digits")
    digest = hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest()
    return Source([str(name) for name in raw.target_names], whole.take(keep), whole.take(held), None, digest)
