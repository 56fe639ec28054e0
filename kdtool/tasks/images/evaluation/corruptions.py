"""Pictures made worse, the same way every time: noise, blur and JPEG at five severities.

Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR 2019:
their strengths for Gaussian noise, Gaussian blur and JPEG, applied to the image at the network's input size. Widths of
the blur are theirs at 224 pixels, in proportion to the size.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from kdtool.errors import InputError, did_you_mean

STRENGTHS = {
    "noise": (0.08, 0.12, 0.18, 0.26, 0.38),  # standard deviation, for pixels in [0, 1]
    "blur": (1.0, 2.0, 3.0, 4.0, 6.0),  # radius in pixels at 224
    "jpeg": (25, 18, 15, 10, 7),  # quality
}
USUAL_SEVERITY = 3


@dataclass(frozen=True)
class Corruption:
    """One kind of damage.

    Attributes:
        kind: "noise", "blur" or "jpeg".
        severity: 1 to 5.
        seed: of the noise, together with the sample's row.
    """

    kind: str
    severity: int = USUAL_SEVERITY
    seed: int = 0

    @classmethod
    def parse(cls, text: str) -> Corruption:
        """Return what ``kind`` or ``kind:severity`` says.

        Raises:
            InputError: another kind, or a severity outside 1 to 5.
        """
        kind, colon, severity = text.partition(":")
        if kind not in STRENGTHS:
            raise InputError(f"--corrupt {text}: there is no {kind!r}. {did_you_mean(kind, STRENGTHS)}")
        if colon and severity not in ("1", "2", "3", "4", "5"):
            raise InputError(f"--corrupt {text}: the severity is a whole number from 1 to 5, such as {kind}:3.")
        return cls(kind, int(severity) if colon else USUAL_SEVERITY)

    def __call__(self, pixels_HWC: np.ndarray, row: int) -> np.ndarray:
        """Return uint8 (H, W, 3) pixels, a function of the pixels, the row and this corruption alone."""
        strength = STRENGTHS[self.kind][self.severity - 1]
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
