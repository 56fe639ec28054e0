"""Networks from what a recipe names: an architecture, weights, a class count and an image size."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch import nn

from kdtool.errors import InputError, first_line
from kdtool.randomness import seeded_libraries
from kdtool.recipe.names import is_own_file
from kdtool.registry import models
from kdtool.tasks.common.own_code import Factory, load_factory
from kdtool.tasks.images.models import inputs
from kdtool.tasks.images.models.built import IN_CHANS, Built, Request, check_logits, dry_logits, load_file
from kdtool.tasks.images.models.dry import dry_images, runnable_size
from kdtool.tasks.images.models.forward import first_of_several, settle_layout
from kdtool.tasks.images.models.inputs import IMAGENET, IMAGENET_MEAN, IMAGENET_STD, Inputs
from kdtool.tasks.images.models.names import resolve
from kdtool.tasks.images.models.timm_models import build_timm

__all__ = ["Built", "build"]


def build(
    name: str,
    weights: str = "auto",
    num_classes: int = 1000,
    image_size: int | None = None,
    model_args: dict[str, Any] | None = None,
    prefer_scratch: bool = False,
    seed: int = 0,
    role: str = "student",
    said: Sequence[Inputs] = (),
    otherwise: Sequence[Inputs] = (),
    weights_key: str | None = None,
    new_head: bool = False,
    channels: int = 3,
) -> Built:
    """Return a network that is ready to run, with its first weights.

    First weights are a function of (role, seed); building leaves no trace in the global generators. Its inputs are as
    the first says of: ``said``, a ``config.json`` beside its weights file, its own ``pretrained_cfg``, ``otherwise``.

    Args:
        name: timm name or family, ``hf-hub:``, ``local-dir:``, or ``path/to/file.py:function``.
        weights: "auto", "pretrained", "scratch", or a file.
        num_classes: K.
        image_size: pixels a side; default: what the network was trained at.
        model_args: further arguments of its constructor.
        prefer_scratch: "auto" means "scratch" (a folder's or a hub repository's own weights are still taken).
        seed: of the first weights.
        role: what the network is for; also chooses the words of error messages.
        said: what is said of its inputs, before all that comes with it.
        otherwise: what holds where nothing comes with it; at last ImageNet's.
        new_head: keep of a file's or folder's weights all but the final layers.
        channels: of its images. Others than three are told to timm, and to a function that takes it, as ``in_chans``;
            weights of three are then adapted as timm adapts them.
        weights_key: which of a file's weights, see ``kdtool.tasks.common.weight_files.open_state``.

    Raises:
        InputError: unknown name, weights that cannot be had or do not fit, or an image size that it does not take.
    """
    resolved, note = resolve(name)
    args = dict(model_args or {})
    if args.get(IN_CHANS, channels) != channels:
        raise InputError(f"model_args.{IN_CHANS}={args[IN_CHANS]}, but images have data.channels={channels}: set that.")
    request = Request(
        resolved, weights, num_classes, image_size, args, prefer_scratch, seed, role, channels, weights_key, new_head
    )
    built = _build_own(request) if is_own_file(resolved) else build_timm(request)
    settle_layout(built)
    _settle_inputs(built, request, said, otherwise)
    built.notes[:0] = [*([note] if note else []), *models.register()]
    return built


def _settle_inputs(built: Built, request: Request, said: Sequence[Inputs], otherwise: Sequence[Inputs]) -> None:
    """Give a network what its inputs are to be, and note it where that does not go without saying."""
    with_file = [inputs.beside(request.weights_file)] if request.weights_file is not None else []
    found = inputs.for_channels(
        inputs.first_said([*said, *with_file, *built.said, *otherwise, IMAGENET]), request.channels
    )
    assert found.mean is not None
    assert found.std is not None
    timms = built.timm_name is not None and (built.mean, built.std) == (found.mean, found.std)
    built.mean, built.std = found.mean, found.std
    built.interpolation, built.crop_pct = found.interpolation, found.crop_pct
    if not timms:
        built.notes.append(f"{built.name}: inputs are normalised by {inputs.normalisation(found)}")


def _build_own(request: Request) -> Built:
    """Return a network made by the user's own function."""
    if request.weights == "pretrained":
        raise InputError(
            f"{request.name} is your own architecture, so there are no pretrained weights to look up; "
            "give a weights file, or scratch."
        )
    factory = load_factory(request.name)
    if request.channels != 3 and factory.takes(IN_CHANS):
        request = dataclasses.replace(request, model_args={IN_CHANS: request.channels, **request.model_args})
    module = _own_module(factory, request)
    try:
        size = request.image_size or runnable_size(module, request.channels)
    except Exception as error:
        raise InputError(
            f"{request.name} does not run on images of {inputs.channels_of(request.channels)} ({first_line(error)})."
        ) from error
    several = first_of_several(module, dry_images(module, size, request.channels))
    _check_runs(module, request, size)
    built = Built(
        module,
        request.name,
        "scratch",
        IMAGENET_MEAN,
        IMAGENET_STD,
        size,
        channels=request.channels,
        num_classes=request.num_classes,
        model_args=request.model_args,
        source_hash=factory.source_hash,
        source=f"{factory.path}:{factory.function}",
        said=[
            inputs.of_cfg(factory.attribute("pretrained_cfg"), f"{request.name}: pretrained_cfg"),
            _of_module(module),
        ],
    )
    if several:
        built.notes.append(f"{built.name} gives several outputs: the first is taken as the logits, as timm does")
    if request.weights_file is not None:
        load_file(built, request.weights_file, request.weights_key, request.new_head)
    return built


def own_image_size(name: str) -> int | None:
    """Return the pixels a side that a user's own function states beside itself: its ``pretrained_cfg["input_size"]``.

    Returns:
        None where it states none, or where ``name`` is no ``file.py:FUNCTION``.

    Raises:
        InputError: what it states is no size.
    """
    if not is_own_file(name):
        return None
    cfg = inputs.mapping_of(load_factory(name).attribute("pretrained_cfg"), f"{name}: pretrained_cfg")
    size = cfg.get("input_size")
    if size is None:
        return None
    if not isinstance(size, (list, tuple)) or len(size) != 3 or not all(type(each) is int for each in size):
        raise InputError(f"{name}: pretrained_cfg: input_size is {size!r}; expected channels, height and width.")
    return int(size[-1])


def _of_module(module: nn.Module) -> Inputs:
    """Return the normalisation that a network of timm's brings when a user's function returns one."""
    cfg = getattr(module, "pretrained_cfg", None) or {}
    return inputs.of_cfg({key: cfg.get(key) for key in ("mean", "std")}, f"{type(module).__name__}.pretrained_cfg")


def _own_module(factory: Factory, request: Request) -> nn.Module:
    with seeded_libraries("init", request.role, request.seed):
        return factory.build(request.num_classes, request.model_args)


def _check_runs(module: nn.Module, request: Request, size: int) -> None:
    """Run a network once at an image size.

    Raises:
        InputError: it fails at that size, or does not give one value a class.
    """
    try:
        logits = dry_logits(module, size, request.channels)
    except Exception as error:
        taking = "" if request.channels == 3 else (
            f", or let its function take {IN_CHANS}: data.channels={request.channels}"
        )  # fmt: skip
        raise InputError(
            f"{request.name} does not run on {size}x{size} images ({first_line(error)}). "
            f"Choose a size that it takes with {request.size_option}N{taking}."
        ) from error
    check_logits(logits, request)
