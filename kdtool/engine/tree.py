"""Inputs as the engine sees them: a tree of tensors, each with the samples first.

A tree is a tensor, a dictionary, list or tuple of trees, or an object of a task's own with ``apply(function)`` and
``split(sizes)``, which return one of its kind and a list of them. The engine looks no further.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class Views:
    """Inputs of samples in several views.

    Attributes:
        own: in the usual view.
        further: by name, trees of the same samples.
    """

    own: Any
    further: Mapping[str, Any]

    def apply(self, function: Callable[[Tensor], Tensor]) -> Views:
        """Return these with every tensor replaced."""
        return Views(apply(self.own, function), {name: apply(each, function) for name, each in self.further.items()})

    def split(self, sizes: Sequence[int]) -> list[Views]:
        """Return the samples in parts."""
        further = {name: split(each, sizes) for name, each in self.further.items()}
        return [Views(own, {name: parts[number] for name, parts in further.items()})
                for number, own in enumerate(split(self.own, sizes))]  # fmt: skip


def usual(tree: Any) -> Any:
    """Return inputs in the usual view alone."""
    return tree.own if isinstance(tree, Views) else tree


def tensors(tree: Any) -> Iterator[Tensor]:
    """Yield the tensors of a tree."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    apply(tree, note)
    yield from found


def apply(tree: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return the tree with every tensor replaced by what ``function`` gives for it."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return {name: apply(each, function) for name, each in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(apply(each, function) for each in tree)
    return tree.apply(function)


def cast(tree: Any, dtype: torch.dtype) -> Any:
    """Return the tree with its floating-point tensors in another type; token ids, masks and counts stay as they are."""
    return apply(tree, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)


def to(tree: Any, device: torch.device) -> Any:
    """Return the tree on a device. The host waits for it: ``kdtool.engine.staging`` need not."""
    return apply(tree, lambda tensor: tensor.to(device))


def device_of(tree: Any) -> torch.device:
    """Return where a tree's tensors are."""
    return next(tensors(tree)).device


def first(tree: Any) -> Any:
    """Return the first sample of plain tensors; an object of a task's own as it is."""
    return apply(tree, lambda tensor: tensor[:1]) if _is_plain(tree) else tree


def _is_plain(tree: Any) -> bool:
    if isinstance(tree, dict):
        return all(map(_is_plain, tree.values()))
    return all(map(_is_plain, tree)) if isinstance(tree, (list, tuple)) else isinstance(tree, Tensor)


def split(tree: Any, sizes: Sequence[int]) -> list[Any]:
    """Return the tree's samples in parts of these sizes."""
    if isinstance(tree, Tensor):
        return list(tree.split(list(sizes)))
    if isinstance(tree, dict):
        columns = {name: split(each, sizes) for name, each in tree.items()}
        return [{name: parts[number] for name, parts in columns.items()} for number in range(len(sizes))]
    if isinstance(tree, (list, tuple)):
        rows = zip(*(split(each, sizes) for each in tree), strict=True)
        return [type(tree)(row) for row in rows]
    found: list[Any] = tree.split(sizes)
    return found
