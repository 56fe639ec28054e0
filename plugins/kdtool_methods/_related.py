"""The features whose relations a method compares: the embedding, or layers that the user chose."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Optional

from torch import Tensor

from kdtool import Batch, Setup, Taps, option
from kdtool.layers import layer_pairs, token_mean
from kdtool.method import Shape


@dataclass
class RelatedLayers:
    """Options that choose them; a base of a method's ``Config``."""

    layers: Optional[list[float]] = option(
        None,
        "relative depths of the layers whose relations are compared, on both sides; 0 first stage, 1 last; default: "
        "the embedding before the classifier",
        min=0.0,
        max=1.0,
        late=True,
    )
    student_layers: Optional[list[str]] = option(
        None, "dotted names of the student's layers, instead of depths", late=True
    )
    teacher_layers: Optional[list[str]] = option(
        None, "dotted names of the teacher's layers, instead of depths", late=True
    )


def related_taps(method: str, cfg: Any) -> Taps:
    """Return the layers to tap, as the role "embedding" of both sides.

    Args:
        method: its name, for the error message.
        cfg: ``RelatedLayers``.

    Raises:
        InputError: the two sides name unequal numbers of layers.
    """
    if not (cfg.layers or cfg.student_layers or cfg.teacher_layers):
        return Taps(student={"embedding": "embedding"}, teacher={"embedding": "embedding"})
    taps = layer_pairs(method, cfg.layers or (), cfg.student_layers, cfg.teacher_layers)
    return Taps(student={"embedding": taps.student["stages"]}, teacher={"embedding": taps.teacher["stages"]})


def related(batch: Batch) -> list[tuple[Tensor, Tensor]]:
    """Return (student's, teacher's) feature of every layer, teacher after teacher; a padded sequence as its mean."""
    mask = batch.student.mask
    return [
        (token_mean(ours, mask), token_mean(theirs, mask))
        for out in batch.teachers
        for ours, theirs in zip(_listed(batch.student.taps["embedding"]), _listed(out.taps["embedding"]), strict=True)
    ]


def related_shapes(setup: Setup) -> list[tuple[Shape, Shape]]:
    """Return (student's, teacher's) shape of every layer, teacher after teacher."""
    return [
        pair
        for shapes in setup.teachers
        for pair in zip(_listed(setup.student["embedding"]), _listed(shapes["embedding"]), strict=True)
    ]


def entries(shape: Shape) -> int:
    """Return how many entries a feature of this shape has, flattened; of a sequence its mean token's."""
    return shape[1] if len(shape) == 2 else math.prod(shape)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]
