"""Networks of fully connected layers; "64x32" has hidden layers of 64 and 32 units."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from kdtool.errors import InputError
from kdtool.method import TapSpec
from kdtool.randomness import seeded_libraries
from kdtool.tasks.common.hooked import Hooked, Point
from kdtool.tasks.task import Built


@dataclass
class Layers(Built):
    """A network: (B, features) -> (B, num_classes)."""

    features: int = field(kw_only=True)

    input_keys = ("features",)

    def tapped(self, taps: TapSpec | None = None) -> Hooked:
        stages = [str(2 * i + 1) for i in range(len(self.name.split("x")))]  # what each ReLU gives
        head = Point(str(2 * len(stages)), before=True)
        return Hooked(self.module, taps, stages=stages, embedding=head, dry_inputs=self.dry_inputs)

    def dry_inputs(self, count: int) -> Tensor:
        weight = next(self.module.parameters())
        noise = torch.randn(count, self.features, generator=torch.Generator().manual_seed(0))
        return noise.to(weight.device, weight.dtype)

    def identity(self) -> dict[str, Any]:
        return {"architecture": self.name, "classes": self.num_classes, "features": self.features}


def build(name: str, features: int, classes: int, seed: int, role: str) -> Layers:
    """Return a network with first weights that follow from role and seed.

    Raises:
        InputError: the name is no list of widths.
    """
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", name):
        raise InputError(f"there is no model {name!r}; expected widths of hidden layers, such as 64x32.")
    widths = [features, *map(int, name.split("x"))]
    with seeded_libraries("init", role, seed):
        layers: list[nn.Module] = []
        for i, o in pairwise(widths):
            layers += [nn.Linear(i, o), nn.ReLU()]
        module = nn.Sequential(*layers, nn.Linear(widths[-1], classes))
    return Layers(module, name, "scratch", num_classes=classes, features=features)
