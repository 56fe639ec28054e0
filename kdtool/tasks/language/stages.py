"""A language model's layers for ``kdtool inspect``."""

from __future__ import annotations

from typing import Any

from kdtool.tasks.common.cost import macs, parameters
from kdtool.tasks.language.models.built import Built


def stages(built: Built) -> list[dict[str, Any]]:
    """Return a line for each layer, shallow to deep, and one for the rest, the head and the word vectors.

    Multiply-accumulates are the whole network's for the few tokens of a dry forward, and stand with the head.
    """
    shapes = built.tapped({str(i): i for i in range(len(built.stages))}).shapes()
    rows = [
        {
            "stage": number, "module": name, "shape": shapes[str(number)], "channels": shapes[str(number)][-1],
            "stride": None, "params": parameters(built.module.get_submodule(name)), "macs": None,
        }
        for number, name in enumerate(built.stages)
    ]  # fmt: skip
    rest = parameters(built.module) - sum(row["params"] for row in rows)
    whole = macs(built.tapped(), built.dry_inputs(1))
    head = {"stage": "head", "module": None, "shape": None, "channels": None, "stride": None, "params": rest}
    return [*rows, {**head, "macs": whole}]
