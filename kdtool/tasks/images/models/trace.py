"""Finding the stages and the classifier of a network that does not say: one dry forward, watched."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Any

from torch import Tensor, nn

from kdtool.tasks.common.hooked import first_tensor
from kdtool.tasks.images.models.layout import Layout, layout_of


@dataclass(frozen=True)
class Seen:
    """One call of a module: its name, the shapes it took and gave, and how to read what it gave."""

    name: str
    taken: tuple[int, ...]
    shape: tuple[int, ...]
    layout: Layout

    @property
    def area(self) -> tuple[int, int] | None:
        """(H, W) where the output is a map or the tokens of a grid, both square as the images are, else None."""
        if self.layout.kind == "tokens":
            side = isqrt(self.shape[1] - self.layout.prefix)
            return side, side
        if len(self.shape) != 4:
            return None
        height, width = self.shape[1:3] if self.layout.kind == "channels last" else self.shape[2:4]
        return (height, width) if height == width else None


def watch(module: nn.Module, images: Tensor) -> tuple[list[Seen], Tensor]:
    """Return the last call of every submodule, in the order in which the calls ended, and the network's output."""
    seen: dict[str, Seen] = {}
    handles = []
    for name, child in module.named_modules():
        if not name:
            continue

        def note(_: nn.Module, inputs: object, output: object, name: str = name, child: nn.Module = child) -> None:
            taken, tensor = first_tensor(inputs), first_tensor(output)
            if tensor is not None and tensor.ndim >= 2 and tensor.shape[0] == len(images):
                seen.pop(name, None)
                layout = layout_of(tensor, child, module, len(images))
                seen[name] = Seen(name, tuple(taken.shape) if taken is not None else (), tuple(tensor.shape), layout)

        handles.append(child.register_forward_hook(note))
    try:
        output = module(images)
    finally:
        for handle in handles:
            handle.remove()
    return list(seen.values()), output


def stages_of(module: nn.Module, calls: list[Seen], num_classes: int) -> list[str]:
    """Return the names of a network's stages, shallow to deep.

    A stage is the last map of each resolution that the network does not go back above (so the squeezed maps of
    attention blocks are none). Maps in the middle of a block that itself ends at a smaller resolution count only
    where there are no others; what a global pooling gives is no stage, and neither is a convolutional classifier. A
    network of one resolution, such as a plain vision transformer, has its blocks as stages: the longest list of
    modules that all give the same shape.
    """
    groups: dict[tuple[int, int], list[Seen]] = {}
    largest = 0
    for call in reversed(_outside_of_tokens(calls)):
        area = call.area
        classifier = call.shape[1:] == (num_classes, 1, 1)
        if area is not None and not classifier and area[0] * area[1] >= largest:
            largest = area[0] * area[1]
            groups.setdefault(area, []).insert(0, call)
    if len(groups) > 1 and (1, 1) in groups:
        groups[(1, 1)] = _before_pooling(module, groups[(1, 1)])
        groups = {area: group for area, group in groups.items() if group}
    if len(groups) > 1:
        areas = {call.name: call.area for call in calls}
        return [_outermost(group, areas) for group in reversed(groups.values())]
    return _blocks(module, calls) or [group[-1].name for group in groups.values()]


def _outside_of_tokens(calls: list[Seen]) -> list[Seen]:
    """Leave out what is of another kind inside blocks of tokens: attention maps, mixed or transposed tokens."""
    tokens = {call.name: call.area for call in calls if len(call.shape) == 3}

    def plain(call: Seen) -> bool:
        around = [tokens[name] for name in _ancestors(call.name) if name in tokens]
        return not around or (len(call.shape) == 3 and all(area == call.area for area in around))

    return [call for call in calls if plain(call)]


def _before_pooling(module: nn.Module, group: list[Seen]) -> list[Seen]:
    """Return the 1x1 maps that come before the global pooling, none where it is pooling that made them 1x1."""
    names = {call.name for call in group}

    def pools(name: str) -> bool:
        return "pool" in type(module.get_submodule(name)).__name__.lower()

    def global_pooling(call: Seen) -> bool:  # not a part of a block that gives such a map itself
        return pools(call.name) and all(pools(name) for name in _ancestors(call.name) if name in names)

    before = group[: next((number for number, call in enumerate(group) if global_pooling(call)), len(group))]
    # A functional pooling shows only in the next layer's input, which is 1x1 already.
    return before if before and before[0].taken[2:] != (1, 1) else []


def _ancestors(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _outermost(group: list[Seen], areas: dict[str, tuple[int, int] | None]) -> str:
    """Return the last of one resolution's maps among those inside the fewest blocks that end at a smaller one."""

    def inside(call: Seen) -> int:
        ends = [areas.get(block) for block in _ancestors(call.name)]
        return sum(1 for end in ends if end is not None and end != call.area)

    fewest = min(inside(call) for call in group)
    return [call.name for call in group if inside(call) == fewest][-1]


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
    names = {id(child): name for name, child in module.named_modules()}
    points = []
    for head in _given(module):
        while isinstance(getattr(head, "fc", None), nn.Module) and not isinstance(head.fc, nn.Identity):
            head = head.fc
        if isinstance(head, nn.Module) and not isinstance(head, nn.Identity) and id(head) in names:
            points.append(names[id(head)])
    return points


def removed_classifiers(module: Any) -> list[str]:
    """Return the names of what stands for the final layers in a network without classes, none where nothing does."""
    names = {id(child): name for name, child in module.named_modules()}
    heads = [head.fc if isinstance(getattr(head, "fc", None), nn.Identity) else head for head in _given(module)]
    return [names[id(head)] for head in heads if isinstance(head, nn.Identity) and id(head) in names]


def _given(module: Any) -> list[Any]:
    found = module.get_classifier() if hasattr(module, "get_classifier") else None
    return list(found) if isinstance(found, (tuple, list, nn.ModuleList)) else [found]
