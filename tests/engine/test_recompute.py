"""Activations computed again in the backward pass: the same training, statistics and gradients, with less memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from kdtool.engine.recompute import blocks_of
from kdtool.engine.signals import StopRequest
from kdtool.engine.trainer import fit
from kdtool.errors import InputError
from kdtool.events import Reporter
from kdtool.tasks.images.models.backbone import Backbone
from tests.engine import tiny
from tests.engine.test_trainer import Hinted


class _Blocks(tiny.Net):
    """A network of two blocks with a norm each, and dropout in one; taps what is between them."""

    def __init__(self) -> None:
        super().__init__(dropout=0.3)
        trunk = nn.Sequential(self.module["lower"], nn.Sequential(self.module["upper"], nn.Dropout(0.2)))
        self.module = nn.ModuleDict({"trunk": trunk, "head": self.module["head"]})
        self.forwards = 0
        trunk[0][0].register_forward_pre_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.forwards += torch.is_grad_enabled()

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Any]]:
        middle = self.module["trunk"][0](x)
        return self.module["head"](self.module["trunk"][1](middle).mean((2, 3))), {"middle": middle}


@pytest.mark.parametrize("train", [{}, {"accumulate": 2, "freeze_bn": True, "ema": 0.9}], ids=["plain", "accumulated"])
def test_the_run_is_the_same(tmp_path: Path, train: dict[str, Any]) -> None:
    states, forwards = [], []
    for number, recompute in enumerate((False, True)):
        torch.manual_seed(0)
        student = _Blocks()
        changes = {"method": Hinted(), "student": student, "train": {**train, "checkpoint_activations": recompute}}
        fitted = fit(tiny.job(tmp_path / str(number), **changes), Reporter(), StopRequest())
        states.append({**fitted.state, **fitted.last_state})
        forwards.append(student.forwards)
    assert forwards[1] >= 2 * forwards[0] > 0  # once a backward pass: of single terms at an epoch's first step
    assert all(torch.equal(states[0][name], tensor) for name, tensor in states[1].items())


@pytest.mark.parametrize(("name", "count"), [("test_resnet", 4), ("test_vit", 6)])
def test_blocks_are_found(name: str, count: int) -> None:
    blocks = blocks_of(Backbone(timm.create_model(name)))
    assert len(blocks) == count
    assert all(isinstance(block, nn.Module) for block in blocks)


def test_a_network_without_blocks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no list of blocks"):
        fit(tiny.job(tmp_path, train={"checkpoint_activations": True}), Reporter(), StopRequest())
