"""Samples that are trained on and measured on."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence


def overlaps(keys: Mapping[str, Sequence[Hashable]], unit: str) -> list[str]:
    """Return a sentence for each split whose samples stand in the training set, too.

    Args:
        keys: by split, of which one is called "training", what is equal for equal samples.
        unit: what samples are called.
    """
    trained, notes = set(keys["training"]), []
    for name, some in keys.items():
        both = sum(key in trained for key in some)
        if both and name != "training":
            verb = "stands" if both == 1 else "stand"
            notes.append(f"{both:,} of {len(some):,} {name} {unit} {verb} in the training set, too")
    return notes
