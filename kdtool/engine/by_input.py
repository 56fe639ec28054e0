"""The tap "input": outputs that can be differentiated by what the networks took, for gradients with respect to images.

It is no layer: each network of a run, whatever it makes of the student's inputs, is differentiated by the very same
tensor. So the tap is answered here, around the network, and a task knows nothing of it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from kdtool.engine.processes import world_size
from kdtool.errors import InputError
from kdtool.method import Shape, TapSpec

INPUT = "input"
"""The tap that stands for the student's inputs."""


def without_input(taps: TapSpec) -> TapSpec:
    """Return the taps that are layers."""
    return {role: layer for role, layer in taps.items() if layer != INPUT}


def tap_input(network: Any, taps: TapSpec, inputs: Any) -> dict[str, Shape]:
    """Let ``call`` answer a network's roles that tap its input; return their shape.

    Args:
        network: tapped for the others, as it takes the student's inputs.
        taps: all that is tapped.
        inputs: dry ones of the student's.

    Raises:
        InputError: there are such roles, and inputs are no real numbers, such as token ids.
    """
    roles = tuple(role for role, layer in taps.items() if layer == INPUT)
    if not roles:
        return {}
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        raise InputError(
            "the method differentiates outputs by a network's input, which takes inputs of real numbers, such as "
            "images: tokens have no gradient. Choose another method or another form of it."
        )
    network.input_roles = roles
    return dict.fromkeys(roles, tuple(inputs.shape[1:]))


def wants_input(network: nn.Module) -> bool:
    """Return whether outputs of a tapped network are to be differentiated by its input."""
    return hasattr(network, "input_roles")


def call(network: Any, inputs: Any) -> tuple[Any, ...]:
    """Return what a tapped network gives for a tree of inputs, (logits, taps) or (logits, taps, mask)."""
    if not wants_input(network):
        found: tuple[Any, ...] = network(inputs)
        return found
    if torch.is_grad_enabled():
        inputs = inputs.detach().requires_grad_()
    # The gradient is differentiated again by the weights, which fused attention cannot be.
    with sdpa_kernel(SDPBackend.MATH):
        logits, taps, *mask = network(inputs)
    return logits, {**taps, **dict.fromkeys(network.input_roles, inputs)}, *mask


def frozen(network: nn.Module, otherwise: type[AbstractContextManager[Any]]) -> AbstractContextManager[Any]:
    """Return what a frozen network runs under: ``otherwise``, but where its input's gradient is wanted, and can be."""
    return nullcontext() if wants_input(network) and torch.is_grad_enabled() else otherwise()


def check_whole(network: nn.Module, pieces: int, coupled: bool) -> None:
    """Refuse outputs that are gathered before a loss sees them, which cuts them off from the inputs.

    Args:
        network: the student.
        pieces: micro-batches of a step.
        coupled: the loss relates samples to one another.

    Raises:
        InputError: so they are.
    """
    if coupled and wants_input(network) and (pieces > 1 or world_size() > 1):
        raise InputError(
            "a method that differentiates by the images cannot be joined, in micro-batches or in several processes, "
            "with one that relates samples to one another: set train.accumulate=1 in one process, or leave one out."
        )
