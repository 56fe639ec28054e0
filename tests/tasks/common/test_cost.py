"""Multiply-accumulates of recurrent layers, against sums done by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from kdtool.tasks.common.cost import counted, macs, recurrent_macs

D, H, L = 5, 7, 11


class Last(nn.Module):
    """A recurrent layer, and a linear one on its last states."""

    def __init__(self, layer: nn.RNNBase, width: int):
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, 3)

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        found: Tensor = self.head(self.layer(input=tokens_BLD)[0][:, -1])
        return found


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # fused, and as matrix products
def test_gates_of_every_step_are_counted_once(kind: Any, gates: int, dtype: torch.dtype) -> None:
    network = Last(kind(D, H, batch_first=True), H).to(dtype)
    assert macs(network, torch.randn(1, L, D, dtype=dtype)) == L * gates * (D + H) * H + H * 3


def test_both_directions_and_every_layer_are_counted() -> None:
    network = Last(nn.LSTM(D, H, num_layers=2, bidirectional=True, batch_first=True), 2 * H)
    first, second = 2 * 4 * (D + H) * H, 2 * 4 * (2 * H + H) * H
    assert macs(network, torch.randn(1, L, D)) == L * (first + second) + 2 * H * 3


def test_a_projection_is_counted() -> None:
    network = Last(nn.LSTM(D, H, proj_size=2, batch_first=True), 2)
    assert macs(network, torch.randn(1, L, D)) == L * (4 * (D + 2) * H + 2 * H) + 2 * 3


def test_a_packed_sequence_costs_its_own_tokens() -> None:
    layer = nn.LSTM(D, H)
    packed = pack_sequence([torch.randn(4, D), torch.randn(1, D)])
    assert recurrent_macs(layer, packed) == 5 * 4 * (D + H) * H
    with counted(layer) as count, torch.no_grad():
        layer(packed)
    assert count.macs == 5 * 4 * (D + H) * H


def test_a_counter_that_knows_the_kernel_is_not_added_to() -> None:
    layer, tokens = nn.LSTM(D, H, batch_first=True), torch.randn(1, L, D)
    known = {torch.ops.aten.mkldnn_rnn_layer: lambda *_, **__: 2 * 1000, torch.ops.aten.lstm: lambda *_, **__: 2 * 1000}
    with counted(layer, mapping=known) as count, torch.no_grad():
        layer(tokens)
    assert count.macs in (1000, L * 4 * (D + H) * H)  # the latter where products are made of it
    assert not count.recurrent


def test_hooks_are_gone_afterwards() -> None:
    layer = nn.GRU(D, H)
    with counted(layer):
        pass
    assert not layer._forward_hooks
    assert not layer._forward_pre_hooks
