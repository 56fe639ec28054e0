"""The contact sheet of a run's page: the images of the test split that its student is least certain of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from kdtool.errors import InputError
from kdtool.tasks.images.evaluation.predictions import Examined
from kdtool.tasks.images.page.thumbnail import picture, small

MOST = 24
"""Pictures on the sheet: about a hundred kilobytes of the page."""


def least_certain(examined: Examined, logits: Tensor, labels: Tensor, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the images whose likeliest class has the least probability, the least certain first.

    Images that cannot be read are left out: the student was shown another in their place.

    Args:
        examined: the images.
        logits: (N, K) of the student, in their order.
        labels: (N,) int64, in the order of the logits' classes.
        names: of the K classes.

    Returns:
        For each "picture" (base64), "format", "label", "predicted", "p" and "file" (its name, None without one).
    """
    certainty, guesses = logits.double().softmax(1).max(1)
    places = [(split, position) for split in examined.splits.values() for position in range(len(split))]
    found: list[dict[str, Any]] = []
    for i in certainty.argsort(stable=True).tolist():
        if len(found) == MOST:
            break
        split, position = places[i]
        try:
            image, own = picture(split, position, examined.cfg.channels)
        except InputError:
            continue
        if not own:
            continue
        kind, content = small(image)
        paths = getattr(split.images, "paths", None)
        found.append(
            {
                "picture": content,
                "format": kind,
                "label": names[int(labels[i])],
                "predicted": names[int(guesses[i])],
                "p": float(certainty[i]),
                "file": Path(paths[int(split.rows[position])]).name if paths is not None else None,
            }
        )
    return found
