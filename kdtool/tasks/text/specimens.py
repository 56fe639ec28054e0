"""Tiny sentences and networks for the conformance kits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

MODELS = {"BiLSTM": "bilstm", "TextCNN": "textcnn", "BERT": "transformer-tiny"}

WORDS = {
    "weather": ["rain", "wind", "sun", "cloud", "storm", "snow", "warm", "cold", "morning", "sky"],
    "kitchen": ["bread", "salt", "oven", "knife", "butter", "soup", "plate", "onion", "pepper", "warm"],
    "harbour": ["ship", "sail", "rope", "anchor", "wave", "storm", "dock", "captain", "wind", "fish"],
}
ROWS = 60


def write(folder: Path, seed: int) -> dict[str, Any]:
    """Write sixty sentences of three classes, and return what opens them."""
    draw = np.random.Generator(np.random.Philox(seed))
    names = list(WORDS)
    lines = ["sentence\tlabel"]
    for row in range(ROWS):
        name = names[row % len(names)]
        words = draw.choice(WORDS[name], int(draw.integers(3, 9)))
        lines.append(f"{' '.join(words)} {row}\t{name}")
    (folder / "sentences.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"data.name": str(folder / "sentences.tsv"), "data.vocab_size": 150, "data.max_length": 16}
