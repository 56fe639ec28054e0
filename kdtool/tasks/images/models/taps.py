"""From what a method names (a stage, a depth, a module) to a place in one network."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from typing import Any

import torch
from torch import Tensor, nn

from kdtool.errors import InputError, did_you_mean
from kdtool.tasks.images.models.trace import Seen, classifier_of, classifiers, stages_of, watch


@dataclass(frozen=True)
class Stages:
    """A network's feature stages.

    Attributes:
        count: how many there are.
        names: the modules whose outputs they are; empty where timm's ``forward_intermediates`` gives them.
    """

    count: int
    names: tuple[str, ...] = ()


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


def find_stages(module: nn.Module, images: Tensor) -> Stages:
    """Return a network's stages: timm's where they can be trusted, else those that a watched forward shows.

    timm's are taken where ``forward_intermediates`` and ``forward_head`` give the classifier's inputs and the logits
    of ``module(x)`` exactly, and where no later layer overwrites a stage's map in place.
    """
    count = _timm_stages(module, images)
    if count:
        return Stages(count)
    calls, logits = watch(module, images)
    names = _feature_info(module, calls) or stages_of(module, calls, logits.shape[1])
    if not names:
        raise InputError(
            "this network gives no feature maps or token sequences to number as stages; tap 'embedding' or a module "
            f"by name: {_top_level(module)}."
        )
    return Stages(len(names), tuple(names))


def _timm_stages(module: Any, images: Tensor) -> int:
    """Return the number of stages of timm's interface, 0 where it is absent or does not reproduce the forward."""
    if not (hasattr(module, "forward_intermediates") and hasattr(module, "forward_head")):
        return 0
    heads = [module.get_submodule(name) for name in classifiers(module)]
    inputs: list[Tensor] = []
    handles = [head.register_forward_pre_hook(lambda _, args: inputs.append(args[0].clone())) for head in heads]
    try:
        plain = [module(images), *inputs]
        inputs.clear()
        last, maps = module.forward_intermediates(images)
        kept = [feat.clone() if isinstance(feat, Tensor) else None for feat in maps]
        logits = module.forward_head(last)
        again = [logits, *inputs]
    except (AttributeError, NotImplementedError, TypeError, ValueError, RuntimeError, AssertionError):
        return 0
    finally:
        for handle in handles:
            handle.remove()
    if len(plain) != len(again) or not all(_same(a, b) for a, b in zip(plain, again, strict=True)):
        return 0
    if not all(k is not None and k.ndim == 4 and _same(k, feat) for k, feat in zip(kept, maps, strict=True)):
        return 0
    return len(maps)


def _feature_info(module: Any, calls: list[Seen]) -> list[str]:
    """Return the modules that timm's ``feature_info`` names, none where they do not all run and give maps."""
    infos = getattr(module, "feature_info", None)
    infos = getattr(infos, "info", infos)
    if not isinstance(infos, list) or not all(isinstance(info, dict) for info in infos):
        return []
    names = [str(info.get("module")) for info in infos]
    maps = {call.name for call in calls if call.area is not None}
    return names if set(names) <= maps else []


def _same(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    # Two runs of one CPU kernel agree to the bit; accelerators may not.
    slack = 0.0 if a.device.type == "cpu" else 1e-3
    return torch.allclose(a, b, rtol=slack, atol=slack, equal_nan=True)


def module_point(module: nn.Module, layer: str, _: Tensor) -> list[tuple[str, bool]]:
    """Return (module name, whether its input is meant) for a dotted name, with ":in" for the input.

    Raises:
        InputError: no such module; the message names the nearest ones.
    """
    name, colon, side = layer.partition(":")
    names = [known for known, _ in module.named_modules() if known]
    if (colon and side != "in") or name not in names:
        raise InputError(
            f"this network has no module {layer!r}. {did_you_mean(name, names)} Top level: {_top_level(module)}. "
            "Append ':in' for a module's input."
        )
    child = module.get_submodule(name)
    # timm runs the parts of a sequence one by one when stages are tapped, so the sequence's own hook would not fire.
    while type(child).forward is nn.Sequential.forward and len(list(child.children())):
        part = list(child.named_children())[0 if colon else -1][0]
        name, child = f"{name}.{part}", child.get_submodule(part)
    return [(name, bool(colon))]


def embedding_points(module: nn.Module, _: str, images: Tensor) -> list[tuple[str, bool]]:
    """Return the classifiers, whose inputs are the embedding.

    Raises:
        InputError: the network has no layer that gives one value a class.
    """
    calls, logits = watch(module, images)
    ran = {call.name for call in calls}
    heads = classifiers(module)
    if heads and all(name in ran for name in heads):
        return [(name, True) for name in heads]
    name = classifier_of(module, calls, logits.shape[1])
    if name is None:
        raise InputError(
            "cannot tap 'embedding': the network has no linear layer (or 1x1 convolution) whose output has as many "
            f"values as there are classes ({logits.shape[1]}). Tap a module by name: {_top_level(module)}."
        )
    return [(name, True)]


def _top_level(module: nn.Module) -> str:
    return ", ".join(name for name, _ in module.named_children())
