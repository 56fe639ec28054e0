"""Networks that timm has not tried: made to run as the engine runs networks, in both modes and memory layouts."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from kdtool.engine.dry import undisturbed
from kdtool.errors import InputError, first_line
from kdtool.tasks.images.models.built import Built
from kdtool.tasks.images.models.dry import dry_images


def untried(built: Built) -> bool:
    """Tell whether a network is a user's own, or of another package than timm."""
    return built.timm_name is None or built.import_first is not None


def first_of_several(module: nn.Module, images: Tensor) -> bool:
    """Let a network that gives a tuple or list give its first tensor, as timm's scripts take it; tell whether it does.

    Only in one of the two modes, perhaps: what has auxiliary heads gives them in training.
    """
    several = False
    for training in (False, True):
        try:
            with undisturbed(module, training):
                several = several or isinstance(module(images), (tuple, list))
        except Exception:  # whoever needs that mode tells of it by name
            continue
    if several:
        module.register_forward_hook(_first)
    return several


def check_training(built: Built) -> None:
    """Refuse a network that timm has not tried and that does not give (B, K) logits in training mode.

    Raises:
        InputError: it fails, or gives something else.
    """
    if not untried(built):
        return
    expected: tuple[int, ...] = (2, built.num_classes)
    try:
        with undisturbed(built.module, training=True):
            logits = built.module(dry_images(built.module, built.image_size, built.channels))
    except Exception as error:
        raise InputError(f"{built.name} does not run in training mode ({first_line(error)}).") from error
    found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if not built.num_classes and isinstance(logits, Tensor) and logits.ndim == 2:
        return
    if found != expected:
        raise InputError(
            f"{built.name} gives {found} for 2 images in training mode instead of {expected}. Return the logits alone, "
            "or first in a tuple."
        )


def settle_layout(built: Built) -> None:
    """Keep a network contiguous inside where it does not run in channels-last, as one that calls ``view`` does not.

    Raises:
        InputError: it does not run in channels-last even so.
    """
    if not untried(built) or _fault(built) is None:
        return
    for child in built.module.modules():
        if not list(child.children()):
            child.register_forward_hook(_contiguous)
    built.module.register_forward_pre_hook(_contiguous_inputs)
    fault = _fault(built)
    if fault is not None:
        raise InputError(
            f"{built.name} does not run on images in channels-last layout ({first_line(fault)}). Where it calls "
            ".view(...), .reshape(...) takes any layout."
        )
    built.notes.append(f"{built.name} does not run in channels-last layout, so it is kept contiguous inside")


def _fault(built: Built) -> Exception | None:
    """Return what a network raises on images in channels-last, None where it runs."""
    images = dry_images(built.module, built.image_size, built.channels).to(memory_format=torch.channels_last)
    module = copy.deepcopy(built.module).to(memory_format=torch.channels_last)
    try:
        with undisturbed(module):
            module(images)
    except Exception as error:
        return error
    return None


def _first(_: nn.Module, __: Any, output: Any) -> Any:
    return output[0] if isinstance(output, (tuple, list)) else output


def _contiguous(_: nn.Module, __: Any, output: Any) -> Any:
    return output.contiguous() if isinstance(output, Tensor) else output


def _contiguous_inputs(_: nn.Module, inputs: Any) -> Any:
    return tuple(each.contiguous() if isinstance(each, Tensor) else each for each in inputs)
