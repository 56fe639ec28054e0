"""A teacher whose linear layers are kept in 8 bits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

pytest.importorskip("torchao")

from kdtool.engine.precision import Precision
from kdtool.engine.quantised import in_int8
from kdtool.engine.teaching import FrozenTeachers


class Tapped(nn.Module):
    """A network as a task taps it: logits and no taps."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.module = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 32), nn.Linear(32, 5)
        )

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return self.module(inputs), {}


def test_a_weight_is_off_by_half_a_step_of_its_rows_scale_at_most() -> None:
    torch.manual_seed(1)
    layer = nn.Linear(48, 9).requires_grad_(False)
    layer.weight[3] *= 100
    exact = layer.weight.clone()
    kept = in_int8(nn.Sequential(layer))(torch.eye(48)).T - layer.bias[:, None]
    step = exact.abs().amax(1, keepdim=True) / 127
    assert ((kept - exact).abs() <= 0.55 * step + 1e-6).all()
    assert (kept != exact).any()


def test_a_frozen_teacher_is_copied_its_convolutions_stay_and_it_says_nearly_the_same() -> None:
    network, images = Tapped(), torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    device = torch.device("cpu")
    exact = FrozenTeachers([network], Precision("fp32", device))(images)[0].logits
    teachers = FrozenTeachers([network], [Precision("int8", device)])
    found = teachers(images)[0].logits
    assert found.dtype == torch.float32
    assert 0 < (found - exact).abs().max() < 0.02 * exact.abs().max()
    kept = {name: tensor for name, tensor in teachers.networks[0].state_dict().items() if name.endswith("weight")}
    linear = [tensor for tensor in kept.values() if tensor.ndim == 2]
    assert len(linear) == 2
    assert all(tensor.qdata.dtype == torch.int8 for tensor in linear)
    assert all(type(tensor) is torch.Tensor for tensor in kept.values() if tensor.ndim == 4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
