"""A network read by hooks: one forward gives the logits and what its named modules took or gave."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import floor
from typing import Any

from torch import Tensor, nn

from kdtool.engine.dry import undisturbed
from kdtool.errors import InputError, did_you_mean
from kdtool.method import Layer, Shape, TapSpec

EMBEDDING = "embedding"
"""The tap that stands for the classifier's input, as (B, D)."""

BEFORE_ACTIVATION = ":pre"
"""What follows a stage or depth whose feature is wanted before its activation."""


HEADS = "heads"
"""The tap that stands for what each classifier gives, as (B, H, K)."""


@dataclass(frozen=True)
class Point:
    """A tensor of a forward: what a module gives or, with ``before``, takes first.

    Attributes:
        module: its dotted name.
        before: what it takes, not what it gives.
        item: which of several outputs; None: the first tensor in what it gives.
    """

    module: str
    before: bool = False
    item: int | None = None


class Recording:
    """What hooks noted during one forward. It holds nothing between forwards, and notes nothing outside of them."""

    def __init__(self) -> None:
        self.on = False
        self.found: dict[str, Tensor] = {}


def hook(recording: Recording, key: str, network: nn.Module, point: Point) -> None:
    """Let a network's tensor be noted under a key while the recording is on."""
    note, module = partial(_note, recording, key, point), network.get_submodule(point.module)
    module.register_forward_pre_hook(note) if point.before else module.register_forward_hook(note)


def _note(recording: Recording, key: str, point: Point, _: nn.Module, inputs: Any, output: Any = None) -> None:
    """Keep a copy, because an in-place activation may overwrite the tensor later."""
    if not recording.on:
        return
    found = inputs if point.before else output
    tensor = first_tensor(found if point.item is None else found[point.item])
    if tensor is not None:
        recording.found[key] = tensor.clone()


def first_tensor(value: Any) -> Tensor | None:
    """Return the first tensor in what a module took or gave, or None."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return next((found for item in value if (found := first_tensor(item)) is not None), None)
    return None


def stage_index(layer: int | float, count: int) -> int:
    """Return the stage that an index or a relative depth d stands for; d is stage floor(d·(count - 1) + 0.5).

    Raises:
        InputError: out of range.
    """
    if isinstance(layer, bool) or not isinstance(layer, (int, float)):
        raise InputError(f"a tap is a stage number, a depth in [0, 1] or a module's name, not {layer!r}.")
    if isinstance(layer, float):
        if not 0.0 <= layer <= 1.0:
            raise InputError(f"relative depth {layer} is out of range; valid: 0.0 (first stage) to 1.0 (last stage).")
        return floor(layer * (count - 1) + 0.5)
    if not -count <= layer < count:
        raise InputError(
            f"stage {layer} is out of range: this network has {count} stages; valid: 0 to {count - 1}, or {-count} to "
            "-1 from the deepest."
        )
    return layer % count


def depth_before_activation(layer: Layer) -> int | float | None:
    """Return the stage or depth of a layer such as "0.5:pre", None for any other layer.

    Raises:
        InputError: what stands before ":pre" is no number.
    """
    if not isinstance(layer, str) or not layer.endswith(BEFORE_ACTIVATION):
        return None
    number = layer.removesuffix(BEFORE_ACTIVATION)
    try:
        return float(number) if "." in number else int(number)
    except ValueError:
        raise InputError(
            f"cannot tap {layer!r}: before ':pre' stands a stage's number or a depth in [0, 1], such as '-1:pre' or "
            "'0.5:pre'."
        ) from None


def point_of(module: nn.Module, layer: str) -> Point:
    """Return the point that a dotted name stands for, with ":in" for the module's input.

    Raises:
        InputError: no such module; the message names the nearest ones.
    """
    name, colon, side = layer.partition(":")
    names = [known for known, _ in module.named_modules() if known]
    if (colon and side != "in") or name not in names:
        raise InputError(
            f"this network has no module {layer!r}. {did_you_mean(name, names)} Top level: {top_level(module)}. "
            "Append ':in' for a module's input."
        )
    return Point(name, bool(colon))


def does_not_run(key: str, point: Point) -> InputError:
    """Return the error for a tap whose module a dry forward does not reach."""
    return InputError(
        f"cannot tap {key!r}: module {point.module!r} does not run, or gives no tensor, in this network's forward. Tap "
        "a stage (0, 0.5, -1), 'embedding' or another module."
    )


def top_level(module: nn.Module) -> str:
    """Return the names of a network's own parts, for messages."""
    return ", ".join(name for name, _ in module.named_children())


def layers_of(tapped: Layer | Sequence[Layer]) -> tuple[bool, list[Layer]]:
    """Return whether a role taps one layer rather than a list, and the layers."""
    if isinstance(tapped, Sequence) and not isinstance(tapped, str):
        return False, list(tapped)
    return True, [tapped]


def shape_of(tap: Tensor | list[Tensor]) -> Shape | list[Shape]:
    """Return the shape of a tap without the batch, or those of a list."""
    return [tuple(each.shape[1:]) for each in tap] if isinstance(tap, list) else tuple(tap.shape[1:])


class Hooked(nn.Module):
    """A network and the layers to read from it; what ``kdtool.tasks.task.Built.tapped`` is to return.

    Args:
        module: the plain network. Its state dict is what ships.
        taps: per role a layer or a list of layers, see ``kdtool.method.Layer``.
        stages: the modules whose outputs are the stages, shallow to deep.
        embedding: where the classifier's input is.
        dry_inputs: returns inputs of so many samples, for the dry forward that checks the taps.

    Raises:
        InputError: a tap names no stage or module of the network, or one that does not run.
    """

    def __init__(
        self,
        module: nn.Module,
        taps: TapSpec | None,
        *,
        stages: Sequence[str],
        embedding: Point,
        dry_inputs: Callable[[int], Any],
    ):
        super().__init__()
        self.module = module
        self.stages, self.embedding, self.dry_inputs = tuple(stages), embedding, dry_inputs
        self.recording = Recording()
        self.roles: dict[str, list[str]] = {}
        self.single: dict[str, bool] = {}
        points: dict[str, Point] = {}
        for role, layers in (taps or {}).items():
            self.single[role], entries = layers_of(layers)
            named = [self.point(layer) for layer in entries]
            self.roles[role] = [key for key, _ in named]
            points |= dict(named)
        for key, point in points.items():
            hook(self.recording, key, module, point)
        self.points = points
        if points:
            self._check_runs()

    def point(self, layer: Layer) -> tuple[str, Point]:
        """Return the name under which a layer's feature is kept, and where it is found."""
        if layer == EMBEDDING:
            return EMBEDDING, self.embedding
        if layer == HEADS:
            return HEADS, Point(self.embedding.module)
        depth = depth_before_activation(layer)
        if depth is not None:  # a transformer's blocks end in a sum or a norm
            layer = depth
        if isinstance(layer, str):
            return layer, point_of(self.module, layer)
        index = stage_index(layer, len(self.stages))
        return f"stage {index}", Point(self.stages[index])

    def _check_runs(self) -> None:
        with undisturbed(self.module):
            _, found = self._run(self.dry_inputs(2))
        for key, point in self.points.items():
            if key not in found:
                raise does_not_run(key, point)

    def _run(self, inputs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        self.recording.on = bool(self.points)
        try:
            return self.call(inputs), dict(self.recording.found)
        finally:
            self.recording.on = False
            self.recording.found.clear()

    def call(self, inputs: Any) -> Tensor:
        """Return the plain network's (R, K) logits."""
        logits: Tensor = self.module(inputs)
        return logits

    def feature(self, key: str, tensor: Tensor, inputs: Any) -> Tensor:
        """Return what was noted as the feature that methods are to see."""
        return tensor

    def mask(self, inputs: Any) -> Tensor | None:
        """Return the (B, N) mask of sequence taps, see ``kdtool.method.Out``; None without padding."""
        return None

    def forward(self, inputs: Any) -> tuple[Any, ...]:
        """Return (R, K) logits, per role a feature or a list of them, and the mask where there is one."""
        logits, found = self._run(inputs)
        features = {key: self.feature(key, found[key], inputs) for key in self.points}
        if HEADS in features:
            features[HEADS] = features[HEADS].flatten(1).unsqueeze(1)
        taps: dict[str, Any] = {}
        for role, keys in self.roles.items():
            values = [features[key] for key in keys]
            taps[role] = values[0] if self.single[role] else values
        mask = self.mask(inputs)
        return (logits, taps) if mask is None else (logits, taps, mask)

    @property
    def heads(self) -> list[Point]:
        """Where the classifier's input is, for ``kdtool.tasks.common.parts``."""
        return [self.embedding]

    def seen(self) -> tuple[Tensor, dict[str, Any]]:
        """Return the logits of dry inputs, and by a tapped layer's name where its feature is found."""
        return self._run(self.dry_inputs(2))[0], dict(self.points)

    def shapes(self) -> dict[str, Any]:
        """Return each role's shape without the batch, found by a forward that leaves no trace."""
        with undisturbed(self):
            taps = self(self.dry_inputs(2))[1]
        return {role: shape_of(value) for role, value in taps.items()}
