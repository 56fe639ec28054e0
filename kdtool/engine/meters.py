"""Running means of a step's terms, kept on the device and read only now and then."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kdtool.engine.balance import shares
from kdtool.errors import RunError
from kdtool.method import Terms


class Meters:
    """Means of the loss terms over an epoch, and the check that they are finite.

    The device's values are read at ``read`` only, so that no step waits for them.
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.count = 0
        self.sums: dict[str, float] = {}
        self.norms: Terms = {}  # of the terms' gradients, at the epoch's first step
        self._shares: dict[str, float] = {}
        self._pending: list[tuple[int, Terms]] = []

    def add(self, step: int, terms: Terms) -> None:
        """Take one step's terms (scalars on the device). ``step`` is the stage's, from 0."""
        self._pending.append((step, {name: term.detach() for name, term in terms.items()}))

    def read(self) -> dict[str, float]:
        """Fetch what was added, check it, and return the epoch's means so far, ``total`` included.

        Raises:
            RunError: a term is not finite; names the first step and its terms.
        """
        if self._pending:
            names = list(self._pending[0][1])
            stacked = torch.stack([torch.stack([terms[name].double() for name in names]) for _, terms in self._pending])
            for (step, _), values in zip(self._pending, stacked.tolist(), strict=True):
                self._check(step, dict(zip(names, values, strict=True)))
            self._pending.clear()
        return self.means()

    def means(self) -> dict[str, float]:
        """Return the means of what was read."""
        means = {name: total / max(1, self.count) for name, total in self.sums.items()}
        return {**means, "total": sum(means.values())}

    def _check(self, step: int, values: Mapping[str, float]) -> None:
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            shown = ", ".join(f"{name}={value:.4g}" for name, value in values.items())
            raise RunError(
                f"the loss is not finite: term {' and '.join(bad)} in stage {self.stage}, step {step} ({shown}). "
                "Lower --lr, set train.clip_grad=1, or use --precision fp32."
            )
        self.count += 1
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def shares(self) -> dict[str, float]:
        """Return each term's share of the student's gradient, at the epoch's first step."""
        return self._shares or shares(self.norms)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps; call ``read`` first."""
        return {"count": self.count, "sums": self.sums, "shares": self.shares()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``."""
        self.count, self.sums, self._shares = state["count"], dict(state["sums"]), dict(state["shares"])


def total(terms: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of weighted terms: the loss."""
    values = list(terms.values())
    return sum(values[1:], values[0])
