"""What a tapped module gave, as a feature: maps (B, C, H, W), tokens (B, N, D) or vectors (B, D)."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

from torch import Tensor, nn

LEARNT_TOKENS = ("cls_token", "class_token", "dist_token", "reg_token", "register_tokens")
"""What vision transformers call the parameters that they put before the grid's tokens."""


@dataclass(frozen=True)
class Layout:
    """How to read a module's output or input, found by a dry forward.

    Attributes:
        kind: "as is", "channels last" for (B, H, W, C), or "tokens" for (B, prefix + H·W, D) of a square grid.
        prefix: class and register tokens that come before the grid's.
    """

    kind: str = "as is"
    prefix: int = 0

    def feature(self, tensor: Tensor) -> Tensor:
        """Return the feature, channels first."""
        if self.kind == "channels last":
            return tensor.permute(0, 3, 1, 2)
        if self.kind == "tokens":
            grid_BND = tensor[:, self.prefix :]
            side = isqrt(grid_BND.shape[1])
            return grid_BND.transpose(1, 2).reshape(grid_BND.shape[0], grid_BND.shape[2], side, side)
        return tensor


def layout_of(tensor: Tensor, tapped: nn.Module, network: nn.Module, batch: int) -> Layout:
    """Return how to read a tensor that a module gave for square images.

    A 4-D tensor is channels last where its two middle sizes agree and the last two do not, and, where all agree,
    where the network says so (timm's ``output_fmt``). A token sequence becomes a map where what follows the prefix
    tokens fills a square grid.
    """
    if tensor.ndim == 4 and tensor.shape[0] == batch:
        middle, last = tensor.shape[1] == tensor.shape[2], tensor.shape[2] == tensor.shape[3]
        says_so = str(getattr(network, "output_fmt", "")).upper().endswith("NHWC")
        if middle and (not last or (says_so and not isinstance(tapped, (nn.Conv2d, nn.BatchNorm2d)))):
            return Layout("channels last")
    if tensor.ndim == 3 and tensor.shape[0] == batch:
        for prefix in dict.fromkeys((_prefix_tokens(network), 0)):
            count = tensor.shape[1] - prefix
            if count >= 4 and isqrt(count) ** 2 == count:
                return Layout("tokens", prefix)
    return Layout()


def _prefix_tokens(network: nn.Module) -> int:
    """Return how many tokens come before the grid's: as the network says, else as many as it learns."""
    said = getattr(network, "num_prefix_tokens", None)
    if isinstance(said, int):
        return said
    learnt = (parameter for name, parameter in network.named_parameters() if name.rpartition(".")[2] in LEARNT_TOKENS)
    return sum(parameter.shape[-2] if parameter.ndim > 1 else 1 for parameter in learnt)


def vector_of(tensor: Tensor, layout: Layout) -> Tensor:
    """Return a classifier's input as (B, D): averaged over space or tokens where it has them."""
    if tensor.ndim == 2:
        return tensor
    if tensor.ndim == 3:
        return tensor.mean(1)
    feat_BCHW = layout.feature(tensor)
    return feat_BCHW.flatten(1) if feat_BCHW.shape[2:] == (1, 1) else feat_BCHW.mean((2, 3))
