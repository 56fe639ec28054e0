"""A network's own layers by what they are for, found by watching one dry forward: its classifier, its batch norms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdtool.engine.dry import undisturbed
from kdtool.errors import InputError
from kdtool.layers import classify, width
from kdtool.method import Own, Parts
from kdtool.tasks.common.hooked import Point, first_tensor

MIXES = (nn.Conv1d, nn.Conv2d, nn.Linear)
"""Layers after which a feature no longer is what the norm before them gave."""


def parts_of(network: Any, frozen: bool) -> Parts:
    """Return the own layers of a tapped network, see ``kdtool.method.Parts``.

    Args:
        network: tapped; with ``heads`` and ``seen`` as ``kdtool.tasks.common.hooked.Hooked`` has them, else nothing is
            known of it.
        frozen: it is a teacher that does not train.
    """
    if not hasattr(network, "seen"):
        return Parts()
    calls, shapes = Calls(network.module, network.seen), network.shapes()
    logits, places = calls.result

    def own(name: str | None) -> Own | None:
        return Own(calls.module.get_submodule(name), frozen, name) if name else None

    def by_role(find: Callable[[Any, Any], Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for role, keys in network.roles.items():
            single = network.single[role]
            each = [shapes[role]] if single else shapes[role]
            values = [find(places[key], shape) for key, shape in zip(keys, each, strict=True)]
            found[role] = values[0] if single else values
        return found

    try:
        name, why = calls.classifier(network.heads, logits)
    except InputError:
        name, why = "", "it has no layer that gives one value a class"
    classifier = own(name)
    norms = by_role(lambda place, shape: own(calls.norm(place, width(shape))))
    pooled = by_role(lambda place, _: calls.pooled(place, classifier, logits) if classifier is not None else "")
    return Parts(classifier or why, norms, pooled)


class Calls:
    """The calls of a network's modules during one forward, in the order in which they ended.

    Args:
        module: the network.
        call: runs it once.
    """

    def __init__(self, module: nn.Module, call: Callable[[], Any]):
        self.module = module
        self.names: list[str] = []
        self.outputs: list[Tensor | None] = []
        handles = [child.register_forward_hook(self._noting(name)) for name, child in module.named_modules() if name]
        try:
            with undisturbed(module):
                self.result = call()
        finally:
            for handle in handles:
                handle.remove()

    def _noting(self, name: str) -> Callable[..., None]:
        def note(_: nn.Module, __: Any, output: Any) -> None:
            self.names.append(name)
            self.outputs.append(first_tensor(output))

        return note

    def norm(self, place: Point | Tensor, channels: int) -> str | None:
        """Return the batch norm that a feature comes out of; None where there is none.

        Of the norms of a block the least nested is that of its main path (a shortcut's is a part of its own), and of
        those the last. What runs through a convolution after it comes out of none: networks that activate first.

        Args:
            place: where the feature is found, or the very tensor that a module gave.
            channels: of the feature.
        """
        points = [place] if isinstance(place, Point) else self._makers(place)
        for point in points:  # what it came out of, innermost first
            if not point.before and (found := self._norm_in(point.module, self._last(point.module) + 1)) is not None:
                return self._if_it_counts(*found, channels)
        for point in points[:1]:  # what ran before it
            end, around = self._last(point.module), point.module.split(".")
            for count in range(len(around) - 1, -1, -1):
                if (found := self._norm_in(".".join(around[:count]), end)) is not None:
                    return self._if_it_counts(*found, channels)
        return None

    def pooled(self, place: Point | Tensor, classifier: Own, logits: Tensor) -> str:
        """Return the outermost module that gives a map whose average the classifier takes; "" where none does."""
        points = [place] if isinstance(place, Point) else self._makers(place)
        for point in reversed(points):
            feat = self.outputs[self._last(point.module)]
            if point.before or feat is None or feat.ndim != 4 or feat.shape[1] != classifier.weight.shape[1]:
                continue
            with torch.no_grad():
                again = classify(classifier, feat.mean((2, 3)))
            if torch.allclose(again, logits.to(again.dtype), rtol=1e-3, atol=1e-4 * float(logits.abs().max())):
                return point.module
        return ""

    def _makers(self, feature: Tensor) -> list[Point]:
        pairs = zip(self.names, self.outputs, strict=True)
        same = [name for name, out in pairs
                if out is not None and out.data_ptr() == feature.data_ptr() and out.shape == feature.shape]  # fmt: skip
        return [Point(name) for name in same]

    def _norm_in(self, block: str, end: int) -> tuple[str, list[str]] | None:
        """Return the norm of a block's main path among the first ``end`` calls, and what of the block ran after it."""
        ran = [name for name in self.names[:end] if _is_in(name, block)]
        norms = [name for name in ran if isinstance(self.module.get_submodule(name), _BatchNorm)]
        if not norms:
            return None
        least = min(name.count(".") for name in norms)
        chosen = [name for name in norms if name.count(".") == least][-1]
        return chosen, ran[len(ran) - ran[::-1].index(chosen) :]

    def _if_it_counts(self, name: str, after: list[str], channels: int) -> str | None:
        mixed = any(
            each.count(".") <= name.count(".") and isinstance(self.module.get_submodule(each), MIXES) for each in after
        )
        return name if self.module.get_submodule(name).num_features == channels and not mixed else None

    def classifier(self, heads: Sequence[Point], logits: Tensor) -> tuple[str, str]:
        """Return the name of the layer that turns the embedding into the logits, or "", and why there is none.

        Args:
            heads: whose inputs are the embedding.
            logits: (B, K) that the forward gave.
        """
        if len(heads) != 1:
            return "", f"its logits come from {len(heads)} classifiers, each with an embedding of its own"
        name = heads[0].module
        layer = self.module.get_submodule(name) if name else None
        linear = isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1))
        if not linear or name not in self.names:
            return "", "its last layer is no linear one"
        given = self.outputs[self._last(name)]
        if given is None or given.numel() != logits.numel() or not torch.equal(given.flatten(), logits.flatten()):
            return "", f"something follows its last linear layer ({name})"
        return name, ""

    def _last(self, name: str) -> int:
        return len(self.names) - 1 - self.names[::-1].index(name)


def _is_in(name: str, block: str) -> bool:
    return not block or name == block or name.startswith(f"{block}.")
