"""Each term's share of the student's gradient."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdtool import Batch, Method
from kdtool.engine.gradient_norms import gradient_norms, shares
from kdtool.engine.signals import StopRequest
from kdtool.engine.trainer import fit
from kdtool.events import Reporter
from tests.engine import tiny
from tests.engine.test_trainer import SETUP


def test_shares_are_those_of_the_gradients_norms() -> None:
    weight = torch.tensor([3.0, 4.0], requires_grad=True)
    unused = torch.tensor([1.0], requires_grad=True)
    terms = {"half": 0.5 * weight.square().sum(), "linear": weight.sum() * 5 / 2**0.5, "constant": torch.ones(())}
    found = shares(gradient_norms(terms, [weight, unused]))
    assert found == pytest.approx({"half": 0.5, "linear": 0.5})


@pytest.mark.parametrize(("factor", "said"), [(1e-5, True), (1.0, False), (1e5, True)])
def test_a_lopsided_loss_is_warned_of(tmp_path: Path, factor: float, said: bool) -> None:
    class Soft(Method):
        api = 1

        def loss(self, batch: Batch) -> dict[str, Tensor]:
            return {"soft": factor * (batch.student.logits - batch.teachers[0].logits).square().mean()}

    warnings: list[str] = []

    class Hear(Reporter):
        def warn(self, text: str) -> None:
            warnings.append(text)

    fit(tiny.job(tmp_path, Soft(None, SETUP)), Hear(), StopRequest())
    assert bool(warnings) == said
    lines: list[dict[str, Any]] = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        assert set(line["gradient_share"]) == {"soft", "task"}
        assert sum(line["gradient_share"].values()) == pytest.approx(1, abs=1e-4)
