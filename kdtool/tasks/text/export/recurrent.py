"""LSTMs in ONNX: as ONNX's own operator, of any length and batch.

torch.export writes an LSTM out step by step, for the one length that it is shown. So each layer is replaced by one
operation that exists for tracing alone, and becomes ONNX's LSTM.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_LIBRARY = torch.library.Library("kdtool", "DEF")
_LIBRARY.define("lstm(Tensor x, Tensor w, Tensor r, Tensor b, int hidden, bool back) -> (Tensor, Tensor, Tensor)")


def _shapes(x: Tensor, w: Tensor, r: Tensor, b: Tensor, hidden: int, back: bool) -> tuple[Tensor, Tensor, Tensor]:
    length, batch, _ = x.shape
    return x.new_empty(length, batch, hidden), x.new_empty(1, batch, hidden), x.new_empty(1, batch, hidden)


torch.library.register_fake("kdtool::lstm", _shapes, lib=_LIBRARY)


def has_recurrent(module: nn.Module) -> bool:
    """Tell whether a network has layers whose programs would be of one length."""
    return any(isinstance(each, nn.RNNBase) for each in module.modules())


def for_onnx(module: nn.Module) -> nn.Module:
    """Return a copy whose LSTMs can be traced, with ``translated`` for what they become; it does not run."""
    found = copy.deepcopy(module)
    for name, child in list(found.named_modules()):
        if isinstance(child, nn.LSTM) and not child.proj_size:
            found.set_submodule(name, _Traced(child))
    return found


def translated() -> dict[Any, Callable[..., Any]]:
    """Return what says ``for_onnx``'s operation in ONNX."""
    from onnxscript import opset18

    said: Any = opset18

    def lstm(x: Any, w: Any, r: Any, b: Any, hidden: int, back: bool) -> Any:
        direction = "reverse" if back else "forward"
        states, last, cell = said.LSTM(x, w, r, b, hidden_size=hidden, direction=direction)
        return said.Squeeze(states, said.Constant(value_ints=[1])), last, cell

    return {torch.ops.kdtool.lstm.default: lstm}


class _Traced(nn.Module):
    """An LSTM of any depth, in one direction or both, whose weights lie as ONNX wants them."""

    def __init__(self, layer: nn.LSTM):
        super().__init__()
        self.batch_first, self.depth, self.hidden = layer.batch_first, layer.num_layers, layer.hidden_size
        self.ways = ("", "_reverse") if layer.bidirectional else ("",)
        for number in range(self.depth):
            for way in self.ways:
                at = f"l{number}{way}"
                for own, name in (("w", f"weight_ih_{at}"), ("r", f"weight_hh_{at}")):
                    self.register_buffer(f"{own}_{at}", _in_order(getattr(layer, name).detach())[None])
                bias = [f"bias_ih_{at}", f"bias_hh_{at}"]
                zero = torch.zeros(4 * self.hidden)
                both = [getattr(layer, name).detach() if layer.bias else zero for name in bias]
                self.register_buffer(f"b_{at}", torch.cat([_in_order(each) for each in both])[None])

    def forward(self, given: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        x_LBD = given.transpose(0, 1) if self.batch_first else given
        lasts, cells = [], []
        for number in range(self.depth):
            found = []
            for way in self.ways:
                weights = [getattr(self, f"{own}_l{number}{way}") for own in "wrb"]
                states, last, cell = torch.ops.kdtool.lstm(x_LBD, *weights, self.hidden, bool(way))
                found.append(states)
                lasts.append(last)
                cells.append(cell)
            x_LBD = torch.cat(found, dim=2) if len(found) > 1 else found[0]
        out = x_LBD.transpose(0, 1) if self.batch_first else x_LBD
        return out, (torch.cat(lasts), torch.cat(cells))


def _in_order(gates: Tensor) -> Tensor:
    """Return a gates' tensor as ONNX orders them (input, output, forget, cell); torch has the output's last."""
    i, f, g, o = gates.chunk(4)
    return torch.cat([i, o, f, g]).clone()
