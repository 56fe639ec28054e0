"""Weights that were trained on images of other channels: a network's first layer is adapted as timm adapts it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from kdtool.tasks.images.models.built import Built
from kdtool.tasks.images.models.inputs import channels_of


def fits(built: Built, state: Mapping[str, Tensor]) -> bool:
    """Tell whether weights were trained on images of as many channels as the network takes."""
    own = built.module.state_dict()
    return all(state[name].shape == own[name].shape for name in _weights(built.module) if name in state and name in own)


def adapted(built: Built, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of RGB images for the network's channels: summed for one, repeated and scaled for more.

    Raises:
        NotImplementedError: the first layer is no convolution.
    """
    from timm.models import adapt_input_conv

    names = [name for name in _weights(built.module) if name in state]
    return {**state, **{name: adapt_input_conv(built.channels, state[name]) for name in names}}


def sentence(built: Built) -> str:
    """Return what is told of adapted weights."""
    how = "summed over the colours" if built.channels == 1 else "the colours' repeated and scaled"
    return (
        f"{built.name}: the first layer's weights were trained on images of other channels, and are adapted to "
        f"{channels_of(built.channels)} as timm does it: {how}"
    )


def _weights(module: nn.Module) -> list[str]:
    cfg = getattr(module, "pretrained_cfg", None) or {}
    first = cfg.get("first_conv") or ()
    return [f"{name}.weight" for name in ([first] if isinstance(first, str) else first)]
