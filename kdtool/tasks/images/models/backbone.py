"""A network with taps: one forward gives the logits and the features that a method reads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kdtool.engine.dry import undisturbed
from kdtool.errors import InputError
from kdtool.method import Layer, TapSpec
from kdtool.tasks.common.hooked import (
    BEFORE_ACTIVATION,
    EMBEDDING,
    HEADS,
    Point,
    Recording,
    depth_before_activation,
    does_not_run,
    hook,
    layers_of,
    shape_of,
    stage_index,
)
from kdtool.tasks.images.models.activations import before_activation
from kdtool.tasks.images.models.dry import dry_images, runnable_size
from kdtool.tasks.images.models.layout import Layout, layout_of, vector_of
from kdtool.tasks.images.models.taps import Stages, embedding_points, find_stages, module_points


class Backbone(nn.Module):
    """A network and the layers to read from it.

    Stages come through timm's ``forward_intermediates`` and ``forward_head`` where these reproduce the network's own
    forward, and through hooks otherwise, so the logits are always those of ``module(x)``, bit for bit.

    Args:
        module: the plain network, (B, C, H, W) -> (B, K). Its state dict is what ships.
        taps: per role a layer or a list of layers, see ``kdtool.method.Layer``.
        image_size: pixels a side for the dry forward that checks the taps; default: one that the network takes.
        channels: C.

    Raises:
        InputError: a tap names no stage or module of the network, or one that does not run.
    """

    def __init__(
        self, module: nn.Module, taps: TapSpec | None = None, image_size: int | None = None, channels: int = 3
    ):
        super().__init__()
        self.module = module
        self.image_size = image_size
        self.channels = channels
        self.recording = Recording()
        self.roles: dict[str, list[str]] = {}
        self.single: dict[str, bool] = {}
        self.stages: Stages | None = None
        self.indices: list[int] = []
        self.points: dict[str, list[Point]] = {}
        self.layouts: dict[str, Layout] = {}
        if taps:
            with undisturbed(module):
                self._prepare(taps, self._dry_images())

    def _dry_images(self) -> Tensor:
        size = self.image_size or runnable_size(self.module, self.channels)
        return dry_images(self.module, size, self.channels)

    def _prepare(self, taps: TapSpec, images: Tensor) -> None:
        """Turn every layer into a stage number or a module's name, hook the modules, and check that they run."""
        plain = self.module(images)
        if not isinstance(plain, Tensor) or plain.ndim != 2:
            raise InputError(f"the network must return logits (B, K), not {_kind(plain)}.")
        for role, layers in taps.items():
            self.single[role], entries = layers_of(layers)
            self.roles[role] = [self._key(layer, images) for layer in entries]
        for key, points in self.points.items():
            for number, point in enumerate(points):
                hook(self.recording, f"{key}#{number}", self.module, point)
        self._check_runs(images)

    def _key(self, layer: Layer, images: Tensor) -> str:
        """Return the name under which a layer's feature is kept, and note where it comes from."""
        depth = depth_before_activation(layer)
        if depth is not None:
            stage: int | float = depth
        elif not isinstance(layer, str):
            stage = layer
        else:
            if layer not in self.points:
                named = embedding_points if layer in (EMBEDDING, HEADS) else module_points
                points = named(self.module, layer, images)
                self.points[layer] = [Point(each.module) for each in points] if layer == HEADS else points
            return layer
        if self.stages is None:
            self.stages = find_stages(self.module, images)
        index = stage_index(stage, self.stages.count)
        key = f"stage {index}"
        found = None if depth is None else before_activation(self.module, images, self.stages, index)
        if found is not None:
            key = f"{key}{BEFORE_ACTIVATION}"
            self.points[key] = [found]
            return key
        if self.stages.names:
            self.points[key] = [Point(self.stages.names[index])]
        elif index not in self.indices:
            self.indices = sorted([*self.indices, index])
        return key

    def _check_runs(self, images: Tensor) -> None:
        """Find each hooked tensor's layout; complain about modules that do not run."""
        _, found, _ = self._run(images)
        for key, points in self.points.items():
            for number, point in enumerate(points):
                note = f"{key}#{number}"
                if note not in found:
                    raise does_not_run(key, point)
                target = self.module.get_submodule(point.module)
                self.layouts[note] = layout_of(found[note], target, self.module, len(images))

    def _run(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Return logits, hooked tensors by note, and stages by key."""
        self.recording.on = bool(self.points)
        try:
            if self.indices:
                last, maps = self.module.forward_intermediates(images, indices=self.indices)  # type: ignore[operator]
                logits = self.module.forward_head(last)  # type: ignore[operator]
                stages = {f"stage {index}": feat for index, feat in zip(self.indices, maps, strict=True)}
            else:
                logits, stages = self.module(images), {}
            return logits, dict(self.recording.found), stages
        finally:
            self.recording.on = False
            self.recording.found.clear()

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """Return (B, K) logits and, per role, a feature (B, *shape) or a list of them.

        Args:
            images: (B, C, H, W), normalised.
        """
        logits, found, stages = self._run(images)
        features = dict(stages)
        for key, points in self.points.items():
            notes = [f"{key}#{number}" for number in range(len(points))]
            if key == EMBEDDING:
                features[key] = _joined([vector_of(found[note], self.layouts[note]) for note in notes])
            elif key == HEADS:
                features[key] = torch.stack([found[note].flatten(1) for note in notes], 1)
            else:
                features[key] = self.layouts[notes[0]].feature(found[notes[0]])
        taps: dict[str, Any] = {}
        for role, keys in self.roles.items():
            values = [features[key] for key in keys]
            taps[role] = values[0] if self.single[role] else values
        return logits, taps

    @property
    def stage_count(self) -> int:
        """How many stages the network has: valid stage indices are 0 to one less, or negative from the deepest."""
        if self.stages is None:
            with undisturbed(self.module):
                self.stages = find_stages(self.module, self._dry_images())
        return self.stages.count

    @property
    def heads(self) -> list[Point]:
        """Where the classifiers' inputs are, for ``kdtool.tasks.common.parts``."""
        with undisturbed(self.module):
            return embedding_points(self.module, EMBEDDING, self._dry_images())

    def seen(self) -> tuple[Tensor, dict[str, Any]]:
        """Return the logits of dry images, and by a tapped layer's name where its feature is found, or the feature."""
        logits, _, stages = self._run(self._dry_images())
        return logits, {**stages, **{key: points[0] for key, points in self.points.items()}}

    def shapes(self, image_size: int | None = None, device: torch.device | str | None = None) -> dict[str, Any]:
        """Return each role's shape without the batch (a list of shapes where it taps a list of layers).

        Found by a forward in evaluation mode that changes no mode, no buffer and no generator.

        Args:
            image_size: pixels a side; default: that which the taps were checked at.
            device: where to run; default: where the network is.
        """
        size = image_size or self.image_size or runnable_size(self.module, self.channels)
        place = torch.device(device) if device else None
        with undisturbed(self):
            _, taps = self(dry_images(self.module, size, self.channels, device=place))
        return {role: shape_of(value) for role, value in taps.items()}


def _joined(vectors: list[Tensor]) -> Tensor:
    """Return one embedding of several heads' inputs: their mean, or all in a row where their widths differ."""
    if len(vectors) == 1:
        return vectors[0]
    if len({vector.shape[1] for vector in vectors}) == 1:
        return torch.stack(vectors).mean(0)
    return torch.cat(vectors, dim=1)


def _kind(value: object) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
