"""Running means of a step's terms, kept on the device and read only now and then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdtool.engine.gradient_norms import shares
from kdtool.engine.processes import from_all, mean_over_processes
from kdtool.losses import widened
from kdtool.method import Terms


@dataclass(frozen=True)
class BadStep:
    """A step whose loss or gradient was not finite.

    Attributes:
        stage, step: where; the step is the stage's, from 0.
        terms: the loss's terms by name. All may be finite: then a gradient was not.
        indices: positions in the training set of the batch's samples.
    """

    stage: str
    step: int
    terms: dict[str, float]
    indices: list[int]


class Meters:
    """Means of the loss terms over an epoch, and the steps that were not finite.

    The device's values are read at ``read`` only, so that no step waits for them.

    Attributes:
        skipped: steps whose update was withheld, for whatever reason.
        withheld: those among them that fp16's scaler withheld.
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.count = 0
        self.skipped = self.withheld = 0
        self.sums: dict[str, float] = {}
        self.norms: Terms = {}  # of the terms' gradients, at the epoch's first step
        self._shares: dict[str, float] = {}
        self._pending: list[tuple[int, Terms, Tensor, Tensor, Tensor]] = []

    def add(self, step: int, terms: Terms, bad: Tensor, index: Tensor, withheld: Tensor | None = None) -> None:
        """Take one step's terms and flags (scalars on the device) and its samples. ``step`` is the stage's, from 0."""
        held = torch.zeros_like(bad) if withheld is None else withheld
        self._pending.append((step, terms, bad, held, index))

    def read(self) -> list[BadStep]:
        """Fetch what was added, and return the steps among it that were not finite; means leave these out."""
        if not self._pending:
            return []
        pending, self._pending = self._pending, []
        names = list(pending[0][1])
        stacked = [
            torch.stack([widened(each) for each in (*(terms[name] for name in names), held.float(), bad.float())])
            for _, terms, bad, held, _ in pending
        ]
        rows = torch.stack(stacked).cpu().double()
        found = []
        for (step, *_, index), row in zip(pending, mean_over_processes(rows).tolist(), strict=True):
            values = dict(zip(names, row, strict=False))
            self.withheld += bool(row[-2]) and not row[-1]
            self.skipped += bool(row[-2] or row[-1])
            if row[-1]:
                samples = [position for part in from_all(index.tolist()) for position in part]
                found.append(BadStep(self.stage, step, values, samples))
                continue
            self.count += 1
            for name, value in values.items():
                self.sums[name] = self.sums.get(name, 0.0) + value
        return found

    def means(self) -> dict[str, float]:
        """Return the means of what was read, "total" included; nothing where no step counted."""
        if not self.count:
            return {}
        means = {name: total / self.count for name, total in self.sums.items()}
        return {**means, "total": sum(means.values())}

    def shares(self) -> dict[str, float]:
        """Return each term's share of the student's gradient, at the epoch's first step."""
        return self._shares or shares(self.norms)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps; call ``read`` first."""
        return {
            "count": self.count,
            "skipped": self.skipped,
            "withheld": self.withheld,
            "sums": self.sums,
            "shares": self.shares(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``."""
        self.count, self.skipped, self.withheld = state["count"], state["skipped"], state.get("withheld", 0)
        self.sums, self._shares = dict(state["sums"]), dict(state["shares"])


def total(terms: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of weighted terms: the loss."""
    values = list(terms.values())
    return sum(values[1:], values[0])
