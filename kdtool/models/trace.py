"""Finding the stages and the classifier of a network that does not say: one dry forward, watched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from kdtool.models.layout import Layout, first_tensor, layout_of


@dataclass(frozen=True)
class Seen:
    """One call of a module: its name, what it gave and how to read that."""

    name: str
    shape: tuple[int, ...]
    layout: Layout

    @property
    def area(self) -> tuple[int, int] | None:
        """(H, W) where the output is a map, else None."""
        if len(self.shape) != 4:
            return None
        return (self.shape[1], self.shape[2]) if self.layout.kind == "channels last" else (self.shape[2], self.shape[3])


def watch(module: nn.Module, images: Tensor) -> tuple[list[Seen], Tensor]:
    """Return the last call of every submodule, in the order in which the calls ended, and the network's output."""
    seen: dict[str, Seen] = {}
    handles = []
    for name, child in module.named_modules():
        if not name:
            continue

        def note(_: nn.Module, __: object, output: object, name: str = name, child: nn.Module = child) -> None:
            tensor = first_tensor(output)
            if tensor is not None and tensor.ndim >= 2 and tensor.shape[0] == len(images):
                seen.pop(name, None)
                seen[name] = Seen(name, tuple(tensor.shape), layout_of(tensor, child, module, len(images)))

        handles.append(child.register_forward_hook(note))
    try:
        output = module(images)
    finally:
        for handle in handles:
            handle.remove()
    return list(seen.values()), output


def stages_of(module: nn.Module, calls: list[Seen]) -> list[str]:
    """Return the names of a network's stages, shallow to deep.

    A stage is the last map of each resolution that the network does not go back above (the squeezed maps of
    attention blocks are none, and neither is a pooled 1x1 map). A network of one resolution, such as a plain vision
    transformer, has its blocks as stages: the longest list of modules that all give the same shape.
    """
    deepest: dict[tuple[int, int], str] = {}
    largest = 0
    for call in reversed(calls):
        area = call.area
        if area is None or area[0] * area[1] < largest:
            continue
        largest = area[0] * area[1]
        deepest.setdefault(area, call.name)
    if len(deepest) > 1:
        deepest.pop((1, 1), None)
    if len(deepest) > 1:
        return list(reversed(deepest.values()))
    return _blocks(module, calls) or list(deepest.values())


def _blocks(module: nn.Module, calls: list[Seen]) -> list[str]:
    shapes = {call.name: call.shape for call in calls if len(call.shape) > 2}
    best: list[str] = []
    for name, container in module.named_modules():
        if not isinstance(container, (nn.ModuleList, nn.Sequential)):
            continue
        children = [f"{name}.{child}" if name else child for child, _ in container.named_children()]
        ran = [child for child in children if child in shapes]
        if ran and len({shapes[child] for child in ran}) == 1 and len(ran) > max(len(best), 1):
            best = ran
    if best:
        return best
    top = [child for child, _ in module.named_children() if child in shapes]
    return top if len(top) > 1 else []


def classifier_of(module: nn.Module, calls: list[Seen], num_classes: int) -> str | None:
    """Return the name of the last linear (or 1x1 convolution) layer to run that gives one value a class."""
    found = None
    for call in calls:
        child = module.get_submodule(call.name)
        linear = isinstance(child, nn.Linear) or (isinstance(child, nn.Conv2d) and child.kernel_size == (1, 1))
        if linear and num_classes in (call.shape[1], call.shape[-1]):
            found = call.name
    return found


def classifiers(module: Any) -> list[str]:
    """Return the names of the final layers that timm's ``get_classifier`` gives, none where it gives none.

    A head that pools first is left for the layer inside it.
    """
    found = module.get_classifier() if hasattr(module, "get_classifier") else None
    heads: list[Any] = list(found) if isinstance(found, (tuple, list, nn.ModuleList)) else [found]
    names = {id(child): name for name, child in module.named_modules()}
    points = []
    for head in heads:
        while isinstance(getattr(head, "fc", None), nn.Module) and not isinstance(head.fc, nn.Identity):
            head = head.fc
        if isinstance(head, nn.Module) and not isinstance(head, nn.Identity) and id(head) in names:
            points.append(names[id(head)])
    return points
