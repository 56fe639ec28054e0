"""A built network and the request that it came from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kdtool.engine.dry import dry_images, undisturbed
from kdtool.errors import InputError
from kdtool.method import TapSpec
from kdtool.tasks.images.models.backbone import Backbone
from kdtool.tasks.images.models.weights import fit, load_state


@dataclass
class Built:
    """A network and all that is known about it.

    Attributes:
        module: the plain network, (B, 3, image_size, image_size) -> (B, num_classes), on the CPU.
        name: the resolved name.
        origin: "pretrained", "scratch" or "file:<path>".
        notes: sentences for the user: what a name stood for, why weights are not pretrained, a new head.
        mean, std: normalisation of its inputs, per channel.
        image_size: pixels a side.
        num_classes: K.
        timm_name: the architecture's name in timm; None for a user's own.
        model_args: what its constructor got besides the class count, enough to make it again.
        needs_training: it starts from scratch or has a new head, so it knows nothing about the data's classes.
        weights_id: "scratch", or a digest of the weights that it starts from.
        source_hash: sha256 of the user's own architecture file, else None.
        source: ``path/to/file.py:function`` of a user's own architecture, else None.
        import_first: the package that registers the architecture with timm, None where timm has it.
    """

    module: nn.Module
    name: str
    origin: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    num_classes: int
    notes: list[str] = field(default_factory=list)
    timm_name: str | None = None
    model_args: dict[str, Any] = field(default_factory=dict)
    needs_training: bool = True
    weights_id: str = "scratch"
    source_hash: str | None = None
    source: str | None = None
    import_first: str | None = None

    def tapped(self, taps: TapSpec | None = None) -> Backbone:
        """Return the network with taps, checked at its own image size."""
        return Backbone(self.module, taps, self.image_size)


@dataclass(frozen=True)
class Request:
    """The arguments of ``build``, after the name was resolved."""

    name: str
    weights: str
    num_classes: int
    image_size: int | None
    model_args: dict[str, Any]
    prefer_scratch: bool
    seed: int
    role: str

    @property
    def weights_file(self) -> str | None:
        """The weights' path, None where they are named by a word."""
        return None if self.weights in ("auto", "pretrained", "scratch") else self.weights

    @property
    def size_option(self) -> str:
        """The option that sets this network's image size."""
        return "teacher.image_size=" if self.role == "teacher" else "--image-size "


def load_file(built: Built, path: str) -> None:
    """Load a weights file into a built network.

    Raises:
        InputError: it holds no weights, or weights that do not fit.
    """
    fit(built.module, load_state(path), f"the weights in {path!r}", built.num_classes)
    mark_loaded(built, path)


def mark_loaded(built: Built, path: str | Path) -> None:
    """Note that a network's weights came from a file that was made for these classes."""
    built.origin = f"file:{path}"
    built.needs_training = False
    built.weights_id = "sha256:" + hashlib.sha256(Path(path).expanduser().read_bytes()).hexdigest()


def dry_logits(module: nn.Module, size: int) -> Any:
    """Return what a network gives for two noise images, without leaving a trace in it.

    Raises:
        ArithmeticError: it gives numbers that are not finite, as some do on images that are too small for them.
    """
    with undisturbed(module):
        logits = module(dry_images(module, size))
    if isinstance(logits, Tensor) and not logits.isfinite().all():
        raise ArithmeticError("it gives numbers that are not finite")
    return logits


def check_logits(logits: Any, request: Request) -> None:
    """Refuse a network that does not give (B, K) logits."""
    found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if found != (2, request.num_classes):
        raise InputError(
            f"{request.name} gives {found} for 2 images instead of (2, {request.num_classes}): one value for each of "
            f"the data's {request.num_classes} classes. Make its last layer as wide as num_classes says."
        )


def first_line(error: Exception) -> str:
    """Return an error's type and the first line of its message."""
    line = (str(error).strip().splitlines() or [""])[0][:200]
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
