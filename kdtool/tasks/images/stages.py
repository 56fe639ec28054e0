"""A network's stages: shapes, strides, and the parameters and multiply-accumulates up to each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdtool.engine.dry import undisturbed
from kdtool.tasks.common.hooked import first_tensor
from kdtool.tasks.images.models.backbone import Backbone
from kdtool.tasks.images.models.dry import dry_images
from kdtool.tasks.images.models.layout import layout_of
from kdtool.tasks.images.models.taps import find_stages

_PASS_ON = ("pool", "identity", "drop")
"""What the classes of modules are called that may give back what they take."""


@dataclass
class _Call:
    """One module's end in a forward: its name, what it gave, and its own arithmetic without its children's."""

    name: str
    feature: Tensor | None
    macs: int


def stages(network: Backbone, size: int) -> list[dict[str, Any]]:
    """Return a line for each stage, shallow to deep, and one for the head.

    Each has "stage" (its number, or "head"), "module" (whose output it is; None where no module's is), "shape",
    "channels", "stride" (of the input's pixels), and the "params" and "macs" of all that runs after the stage before
    it; where no module gives a stage's map, its costs are in the next line that one gives.

    Args:
        network: any backbone.
        size: pixels a side of one image.

    Raises:
        InputError: the network has no stages.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    module = network.module
    # Attention as plain products, in every forward: the counter knows those, and the maps agree to the bit.
    with undisturbed(module), sdpa_kernel(SDPBackend.MATH):
        images = dry_images(module, size, network.channels)
        found = find_stages(module, images)
        maps = _maps(module, images, found.names)
        calls = _watched(module, images)
    rows, start = [], 0
    for number, feature in enumerate(maps):
        name = found.names[number] if found.names else None
        end = _end(module, calls, start, feature, name)
        row = {"stage": number, "module": calls[end].name if end is not None else name, **_shape(feature, size)}
        if end is not None:
            row |= _cost(module, calls[start : end + 1], first=start == 0)
            start = end + 1
        rows.append({"params": None, "macs": None, **row})
    rest = _cost(module, calls[start:], first=start == 0)
    return [*rows, {"stage": "head", "module": None, "shape": None, "channels": None, "stride": None, **rest}]


def _maps(module: Any, images: Tensor, names: tuple[str, ...]) -> list[Tensor]:
    if not names:
        return list(module.forward_intermediates(images)[1])
    kept = {call.name: call.feature for call in _watched(module, images)}
    return [feature for name in names if (feature := kept.get(name)) is not None]


def _watched(module: nn.Module, images: Tensor) -> list[_Call]:
    """Return the calls of every submodule in the order in which they end."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    calls: list[_Call] = []
    handles, before = [], [0]

    def note(child: nn.Module, name: str) -> Any:
        def hook(_: nn.Module, __: object, output: object) -> None:
            tensor = first_tensor(output)
            feature = None
            if tensor is not None and tensor.ndim > 2:
                feature = layout_of(tensor, child, module, len(images)).feature(tensor).clone()
            total = int(counter.get_total_flops())
            # All that ran since the last module ended is this one's own: children end before their parent.
            calls.append(_Call(name, feature, (total - before[0]) // 2 // len(images)))
            before[0] = total

        return hook

    for name, child in module.named_modules():
        if name:
            handles.append(child.register_forward_hook(note(child, name)))
    try:
        with counter:
            module(images)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _end(module: nn.Module, calls: list[_Call], start: int, feature: Tensor, name: str | None) -> int | None:
    """Return which call gives a stage's map: the last from ``start`` on with these very numbers.

    Left out are those that only pass them on (pooling of 1x1 maps, dropout) and containers of earlier stages.
    """
    before, found = calls[start - 1].name if start else "", None
    for number, call in enumerate(calls[start:], start):
        if name is not None:
            found = number if call.name == name else found
        elif call.feature is not None and call.feature.shape == feature.shape and torch.equal(call.feature, feature):
            kind = type(module.get_submodule(call.name)).__name__.lower()
            if not any(word in kind for word in _PASS_ON) and not before.startswith(f"{call.name}."):
                found = number
    return found


def _cost(module: nn.Module, calls: list[_Call], first: bool) -> dict[str, int]:
    """Return parameters and MACs of some calls; what the root itself holds (class tokens) counts as the first's."""
    names = dict.fromkeys(call.name for call in calls)
    seen = {id(p): p.numel() for name in names for p in module.get_submodule(name).parameters(recurse=False)}
    if first:
        seen |= {id(p): p.numel() for p in module.parameters(recurse=False)}
    return {"params": sum(seen.values()), "macs": sum(call.macs for call in calls)}


def _shape(feature: Tensor, size: int) -> dict[str, Any]:
    shape = tuple(feature.shape[1:])
    if len(shape) == 3:
        return {"shape": shape, "channels": shape[0], "stride": size // shape[1] if shape[1] else None}
    return {"shape": shape, "channels": shape[-1], "stride": None}
