"""Pictures made worse, the same way every time: noise, blur and JPEG at five severities.

Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR 2019:
their strengths for Gaussian noise, Gaussian blur and JPEG, applied to the image at the network's input size. Widths of
the blur are theirs at 224 pixels, in proportion to the size.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageFilter

from kdtool.tasks.common.corruption import Damage

STRENGTHS = {
    "noise": (0.08, 0.12, 0.18, 0.26, 0.38),  # standard deviation, for pixels in [0, 1]
    "blur": (1.0, 2.0, 3.0, 4.0, 6.0),  # radius in pixels at 224
    "jpeg": (25, 18, 15, 10, 7),  # quality
}


class Corruption(Damage):
    """One kind of damage: "noise", "blur" or "jpeg"."""

    strengths = STRENGTHS

    def __call__(self, pixels_HWC: np.ndarray, row: int) -> np.ndarray:
        """Return uint8 (H, W, 3) pixels, a function of the pixels, the row and this corruption alone."""
        strength = self.strength
        if self.kind == "noise":
            draw = np.random.Generator(np.random.Philox(key=[self.seed, row]))
            noisy = pixels_HWC / 255.0 + draw.normal(0.0, strength, pixels_HWC.shape)
            worse: np.ndarray = (noisy.clip(0.0, 1.0) * 255).round().astype(np.uint8)
            return worse
        image = Image.fromarray(pixels_HWC)
        if self.kind == "blur":
            return np.asarray(image.filter(ImageFilter.GaussianBlur(strength * pixels_HWC.shape[0] / 224)))
        kept = io.BytesIO()
        image.save(kept, "JPEG", quality=int(strength))
        return np.asarray(Image.open(kept).convert("RGB"))
