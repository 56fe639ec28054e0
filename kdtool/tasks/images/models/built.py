"""A built network and the request that it came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from kdtool.engine.dry import undisturbed
from kdtool.errors import InputError
from kdtool.method import TapSpec
from kdtool.tasks import task
from kdtool.tasks.common.replaced import put_in_beside
from kdtool.tasks.common.weight_files import load_into
from kdtool.tasks.images.models.backbone import Backbone
from kdtool.tasks.images.models.dry import dry_images
from kdtool.tasks.images.models.inputs import Inputs
from kdtool.tasks.images.models.trace import classifiers

IN_CHANS = "in_chans"
"""What timm calls the number of a network's input channels; a user's own function may take it too."""


@dataclass
class Built(task.Built):
    """An image network: (B, channels, image_size, image_size) -> (B, num_classes).

    Attributes:
        mean, std: normalisation of its inputs, per channel.
        image_size: pixels a side.
        channels: of its images; see ``data.channels``.
        timm_name: the architecture's name in timm; None for a user's own.
        source: ``path/to/file.py:function`` of a user's own architecture, else None.
        import_first: the package that registers the architecture with timm, None where timm has it.
        interpolation: how evaluation resizes; None: bicubic.
        crop_pct: share of the resized image that evaluation's centre crop keeps; None: as the data say.
        said: what the network itself says of its inputs.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    channels: int = field(default=3, kw_only=True)
    timm_name: str | None = field(default=None, kw_only=True)
    source: str | None = field(default=None, kw_only=True)
    import_first: str | None = field(default=None, kw_only=True)
    interpolation: str | None = field(default=None, kw_only=True)
    crop_pct: float | None = field(default=None, kw_only=True)
    said: list[Inputs] = field(default_factory=list, kw_only=True)

    input_keys = ("image_size", "mean", "std", "interpolation", "crop_pct")

    def tapped(self, taps: TapSpec | None = None) -> Backbone:
        """Return the network with taps, checked at its own image size."""
        return Backbone(self.module, taps, self.image_size, self.channels)

    def dry_inputs(self, count: int) -> Tensor:
        """Return (count, channels, image_size, image_size) fixed noise of the network's own type."""
        return dry_images(self.module, self.image_size, self.channels, count)

    def identity(self) -> dict[str, Any]:
        """Return architecture, arguments, classes, input size, normalisation and what else is said of its inputs."""
        resized = {"interpolation": self.interpolation, "crop_pct": self.crop_pct}
        return {
            "architecture": self.timm_name or self.name,
            "model_args": self.model_args,
            "source": self.source_hash,
            "classes": self.num_classes,
            "image_size": self.image_size,
            "mean": self.mean,
            "std": self.std,
            **{key: value for key, value in resized.items() if value is not None},
        }

    def dry_input(self) -> str:
        """Return the input's size."""
        return f"{self.image_size}x{self.image_size}"

    def describe(self) -> dict[str, Any]:
        """Return the input's size."""
        return {"image_size": self.image_size}


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
    channels: int = 3
    weights_key: str | None = None
    new_head: bool = False

    @property
    def weights_file(self) -> str | None:
        """The weights' path, None where they are named by a word."""
        return None if self.weights in ("auto", "pretrained", "scratch") else self.weights

    @property
    def size_option(self) -> str:
        """The option that sets this network's image size."""
        return "teacher.image_size=" if self.role == "teacher" else "--image-size "


def load_file(built: Built, path: str, key: str | None = None, new_head: bool = False) -> None:
    """Load a weights file into a built network; see ``kdtool.tasks.common.weight_files.load_into``."""
    put_in_beside(built, path)  # before its classifiers are looked for
    load_into(built, path, classifiers(built.module), key, new_head)


def dry_logits(module: nn.Module, size: int, channels: int = 3) -> Any:
    """Return what a network gives for two noise images, without leaving a trace in it.

    Raises:
        ArithmeticError: it gives numbers that are not finite, as some do on images that are too small for them.
    """
    with undisturbed(module):
        logits = module(dry_images(module, size, channels))
    if isinstance(logits, Tensor) and not logits.isfinite().all():
        raise ArithmeticError("it gives numbers that are not finite")
    return logits


def check_logits(logits: Any, request: Request) -> None:
    """Refuse a network that does not give (B, K) logits."""
    found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if not request.num_classes:  # an embedding, of whatever width
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            raise InputError(f"{request.name} without classes (num_classes=0) gives {found} for 2 images, not (2, D).")
        return
    if found != (2, request.num_classes):
        raise InputError(
            f"{request.name} gives {found} for 2 images instead of (2, {request.num_classes}): one value for each of "
            f"the data's {request.num_classes} classes. Make its last layer as wide as num_classes says."
        )
