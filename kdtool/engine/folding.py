"""Batch norm folded into the layer before it: a frozen network computes the same with fewer passes over its maps.

In evaluation a batch norm is y = g (x - m) / sqrt(v + e) + b, so with x = W a + c it is the layer with weights
W g / sqrt(v + e) and bias b + (c - m) g / sqrt(v + e) (Ioffe & Szegedy, ICML 2015, section 3.1).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdtool.engine.dry import undisturbed
from kdtool.engine.tree import cast, to

CPU = torch.device("cpu")

EXACT = 1e-9
"""Largest difference, relative to the largest output, between a network and its folded self in float64."""

_Layer = nn.Conv2d | nn.Conv1d | nn.Linear
Pair = tuple[str, str]
"""Names of a layer and of the batch norm that follows it."""


def folded(network: nn.Module, inputs: Any) -> tuple[nn.Module, int]:
    """Return a copy of a network with its batch norms folded where that changes no output, and how many were.

    Which layer a norm follows is seen in a dry forward; that nothing else reads the layer's output is checked by
    comparing all outputs in float64 before and after. That is done on the CPU: not every accelerator has float64, and
    none need hold a network in it. A network without a batch norm is never brought to float64, and its copy shares its
    tensors.

    Args:
        network: in evaluation it maps ``inputs`` to tensors in any nesting.
        inputs: a batch that it takes, as a tree of tensors.
    """
    if not any(map(_foldable, network.modules())):
        return _sharing(network), 0
    double = _sharing(network).to(CPU, torch.float64).eval()
    inputs = cast(to(inputs, CPU), torch.float64)
    with undisturbed(double):
        pairs = _pairs(double, inputs)
        if not pairs:
            return _sharing(network), 0
        want = _flat(double(inputs))
        done = _fold_exactly(double, pairs, lambda: _apart(want, _flat(double(inputs))) <= EXACT)
    weight = next(network.parameters())
    return double.to(weight.device, weight.dtype), done


def _sharing(network: nn.Module) -> nn.Module:
    """Return a copy whose tensors are the network's own: what changes their type or place makes new ones."""
    shared = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in network.parameters()}
    return copy.deepcopy(network, {**shared, **{id(b): b.detach() for b in network.buffers()}})


def _fold_exactly(network: nn.Module, pairs: list[Pair], exact: Callable[[], bool]) -> int:
    """Fold all pairs at once, or, where that is not exact, halves of them, and so on down to single ones."""
    undo = [_fold(network, pair) for pair in pairs]
    if exact():
        return len(pairs)
    for back in undo:
        back()
    if len(pairs) == 1:
        return 0
    half = len(pairs) // 2
    return _fold_exactly(network, pairs[:half], exact) + _fold_exactly(network, pairs[half:], exact)


def _pairs(network: nn.Module, inputs: Tensor) -> list[Pair]:
    """Return layers whose very output tensor a batch norm takes."""
    made: dict[int, str] = {}
    alive: list[Tensor] = []  # an id is unique only among the living
    found: dict[str, list[str]] = {}
    calls: dict[str, int] = {}

    def note_output(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            calls[name] = calls.get(name, 0) + 1
            if isinstance(output, Tensor):
                alive.append(output)
                made[id(output)] = name

        return hook

    def note_input(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, given: Any) -> None:
            calls[name] = calls.get(name, 0) + 1
            layer = made.get(id(given[0])) if given else None
            found.setdefault(name, []).append(layer or "")

        return hook

    handles = []
    for name, module in network.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Conv1d, nn.Linear)):
            handles.append(module.register_forward_hook(note_output(name)))
        elif _foldable(module):
            handles.append(module.register_forward_pre_hook(note_input(name)))
    try:
        network(inputs)
    finally:
        for handle in handles:
            handle.remove()
    # What runs more than once has one set of weights for several places.
    return [(at[0], norm) for norm, at in found.items() if len(at) == 1 and at[0] and calls[at[0]] == 1]


def _foldable(module: nn.Module) -> bool:
    from timm.layers import BatchNormAct2d

    plain = type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm, BatchNormAct2d)
    return plain and isinstance(module, _BatchNorm) and module.running_mean is not None


def _fold(network: nn.Module, pair: Pair) -> Callable[[], None]:
    """Fold a pair in place; the returned function puts it back."""
    layer: Any = network.get_submodule(pair[0])
    norm: Any = network.get_submodule(pair[1])
    weight, bias = layer.weight, layer.bias
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale + (norm.bias if norm.bias is not None else 0.0)
    layer.weight = nn.Parameter((weight * scale.view(-1, *[1] * (weight.ndim - 1))).detach(), requires_grad=False)
    layer.bias = nn.Parameter((shift if bias is None else bias * scale + shift).detach(), requires_grad=False)
    # The module stays where it is, so that what is tapped by its name still is.
    rest = [part for part in (getattr(norm, "drop", None), getattr(norm, "act", None)) if part is not None]
    norm.forward = nn.Sequential(*rest).forward if rest else _same

    def back() -> None:
        layer.weight, layer.bias = weight, bias
        del norm.forward

    return back


def _same(x: Tensor) -> Tensor:
    return x


def _flat(outputs: Any) -> list[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs.clone()]
    parts = outputs.values() if isinstance(outputs, dict) else outputs
    return [tensor for part in parts for tensor in _flat(part)]


def _apart(want: list[Tensor], got: list[Tensor]) -> float:
    size = max(float(a.abs().max()) for a in want)
    return max(float((a - b).abs().max()) for a, b in zip(want, got, strict=True)) / max(size, 1e-300)
