"""What the conformance kits build networks and batches of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Specimens:
    """Of what the conformance kits build networks and batches.

    Attributes:
        models: by kind (such as "CNN", "ViT") a tiny network, as ``model`` in a recipe; the usual kind first, and last
            one that computes the same in training as in evaluation (no batch norm, no dropout).
        write: given a folder and a seed, writes forty labelled samples or so of a few classes, others for another
            seed, and returns the recipe's values, by dotted key, that open them and keep all small.
    """

    models: Mapping[str, str]
    write: Callable[[Path, int], Mapping[str, Any]]
