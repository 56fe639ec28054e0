"""Tiny chats and networks for the conformance kits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

MODELS = {"LLaMA": "llama-tiny"}

THINGS = {
    "rain": "wet", "sun": "bright", "snow": "cold", "fire": "hot", "night": "dark", "stone": "hard", "wool": "soft",
    "sugar": "sweet",
}  # fmt: skip
COUNT = 48


def write(folder: Path, seed: int) -> dict[str, Any]:
    """Write forty-eight chats on how things are, and return what opens them."""
    draw = np.random.Generator(np.random.Philox(seed))
    lines = []
    for number in range(COUNT):
        names = draw.choice(list(THINGS), int(draw.integers(1, 4)))
        asked = f"How is {' and '.join(names)}? ({number})"
        answer = " and ".join(THINGS[name] for name in names)
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": f"It is {answer}."}]
        lines.append(json.dumps({"messages": turns}))
    (folder / "chats.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    sizes = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1,
             "intermediate_size": 24}  # fmt: skip
    return {
        "data.name": str(folder / "chats.jsonl"), "data.vocab_size": 300, "data.max_length": 64,
        "student.model_args": sizes,
    }  # fmt: skip
