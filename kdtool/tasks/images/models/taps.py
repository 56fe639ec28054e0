"""From what a method names (a stage, a depth, a module) to a place in one network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdtool.errors import InputError
from kdtool.tasks.common.hooked import Point, point_of, top_level
from kdtool.tasks.images.models.trace import Seen, classifier_of, classifiers, removed_classifiers, stages_of, watch


@dataclass(frozen=True)
class Stages:
    """A network's feature stages.

    Attributes:
        count: how many there are.
        names: the modules whose outputs they are; empty where timm's ``forward_intermediates`` gives them.
    """

    count: int
    names: tuple[str, ...] = ()


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
            f"by name: {top_level(module)}."
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


def module_points(module: nn.Module, layer: str, _: Tensor) -> list[Point]:
    """Return where a dotted name leads, with ":in" for the module's input.

    Raises:
        InputError: no such module; the message names the nearest ones.
    """
    point = point_of(module, layer)
    name, child = point.module, module.get_submodule(point.module)
    # timm runs the parts of a sequence one by one when stages are tapped, so the sequence's own hook would not fire.
    while type(child).forward is nn.Sequential.forward and len(list(child.children())):
        part = list(child.named_children())[0 if point.before else -1][0]
        name, child = f"{name}.{part}", child.get_submodule(part)
    return [Point(name, point.before)]


def embedding_points(module: nn.Module, _: str, images: Tensor) -> list[Point]:
    """Return the classifiers, whose inputs are the embedding.

    Raises:
        InputError: the network has no layer that gives one value a class.
    """
    calls, logits = watch(module, images)
    ran = {call.name for call in calls}
    heads = classifiers(module) or removed_classifiers(module)
    if heads and all(name in ran for name in heads):
        return [Point(name, True) for name in heads]
    name = classifier_of(module, calls, logits.shape[1])
    if name is None:
        raise InputError(
            "cannot tap 'embedding': the network has no linear layer (or 1x1 convolution) whose output has as many "
            f"values as there are classes ({logits.shape[1]}). Tap a module by name: {top_level(module)}."
        )
    return [Point(name, True)]
