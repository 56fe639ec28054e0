"""Tiny images and networks for the conformance kits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

MODELS = {"CNN": "test_resnet", "ViT": "test_vit"}
"""timm's own test networks: milliseconds a step."""

SIZE, CLASSES = 32, 5
COUNTS = {"train": 8, "test": 2}
"""Samples of each class."""


def write(folder: Path, seed: int) -> dict[str, Any]:
    """Write pictures of noise around a grey that tells the class, and return what opens them."""
    draw = np.random.Generator(np.random.Philox(seed))
    for split, count in COUNTS.items():
        for label in range(CLASSES):
            place = folder / split / f"class{label}"
            place.mkdir(parents=True)
            for number in range(count):
                pixels = draw.normal(80 + 25 * label, 50, (SIZE, SIZE, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
    return {"data.name": str(folder), "data.image_size": SIZE}
