"""A text network's layers for ``kdtool inspect``."""

from __future__ import annotations

from typing import Any

from kdtool.tasks.common.cost import macs, parameters
from kdtool.tasks.text.models.built import Built


def stages(built: Built) -> list[dict[str, Any]]:
    """Return a line for each layer that gives token sequences, shallow to deep, and one for the rest, the head.

    Multiply-accumulates are the whole network's for the few tokens of a dry forward, and stand with the head.
    """
    names = built.parts.stages
    shapes = built.tapped({str(i): i for i in range(len(names))}).shapes()
    rows = []
    for number, name in enumerate(names):
        shape = shapes[str(number)]
        rows.append(
            {
                "stage": number, "module": name, "shape": shape, "channels": shape[-1], "stride": None,
                "params": parameters(built.module.get_submodule(name)), "macs": None,
            }
        )  # fmt: skip
    rest = parameters(built.module) - sum(row["params"] for row in rows)
    network = built.tapped()
    return [
        *rows,
        {
            "stage": "head", "module": None, "shape": None, "channels": None, "stride": None, "params": rest,
            "macs": macs(network, built.dry_inputs(1)),
        },
    ]  # fmt: skip
