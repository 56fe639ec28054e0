"""The built-in data set: scikit-learn's 1,797 handwritten digits, 8 x 8 grey (Alpaydin & Kaynak, 1998)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from kdtool.tasks.common.splits import stratified
from kdtool.tasks.images.data.dataset import Source, Split

TEST_FRACTION = 0.2


@dataclass(frozen=True)
class ArrayImages:
    """Images held as uint8 arrays, (N, H, W) grey or (N, H, W, 3)."""

    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, row: int) -> Image.Image:
        return Image.fromarray(self.pixels[row]).convert("RGB")


def _read() -> tuple[np.ndarray, np.ndarray]:
    """Return (N, 64) float64 values in [0, 16] and (N,) int64 labels.

    The file is read past scikit-learn where it lies where it always has: importing that library takes most of a
    second, which is long for whoever waits for the first step.
    """
    found = find_spec("sklearn")
    file = Path(found.origin or "").parent / "datasets" / "data" / "digits.csv.gz" if found is not None else Path()
    if file.is_file():
        table = np.loadtxt(file, delimiter=",")
        return table[:, :-1], table[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits

    raw = load_digits()
    return raw.data, raw.target.astype(np.int64)


def open_digits() -> Source:
    """Return the digits with their fixed stratified test split of 20%."""
    values, labels = _read()
    pixels = np.round(values.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    rows = np.arange(len(labels), dtype=np.int64)
    whole = Split(ArrayImages(pixels), labels, rows)
    keep, held = stratified(labels, rows, TEST_FRACTION, 0, "digits")
    digest = hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest()
    return Source([str(digit) for digit in range(10)], whole.take(keep), whole.take(held), None, digest)
