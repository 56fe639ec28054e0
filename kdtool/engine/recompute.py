"""Activations that are computed twice instead of kept: memory for time.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016. Of each block its input alone is kept; the backward
pass computes the rest again, with the same dropout and without touching running statistics a second time.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kdtool.errors import InputError


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """Return a network's blocks: the members of its outermost lists of modules that have parts of their own."""
    found: list[nn.Module] = []
    for child in network.children():
        members = list(child.children()) if isinstance(child, (nn.ModuleList, nn.Sequential)) else []
        own = [member for member in members if any(True for _ in member.children())]
        found += own or blocks_of(child)
    return found


def recompute_blocks(network: nn.Module) -> None:
    """Let a network's blocks keep their input alone for the backward pass.

    Raises:
        InputError: it has no blocks.
    """
    blocks = blocks_of(network)
    if not blocks:
        raise InputError("train.checkpoint_activations: this network has no list of blocks. Leave it out.")
    for block in blocks:
        # A bound method, which a copy of the network binds to its own block.
        block.forward = partial(_recomputed, block.forward)


def _recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    block: nn.Module = forward.__self__  # type: ignore[attr-defined]
    return checkpoint(forward, *args, use_reentrant=False, context_fn=partial(_contexts, block), **kwargs)


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _SpareStatistics(block)


class _SpareStatistics(AbstractContextManager[None]):
    """Lets norms that learn write to copies of their running statistics, which the first forward has updated.

    Entered at each backward pass through the block: of single terms there may be several.
    """

    def __init__(self, block: nn.Module):
        self.block = block
        self.kept: list[tuple[nn.Module, dict[str, Tensor | None]]] = []

    def __enter__(self) -> None:
        norms = [m for m in self.block.modules() if m.training and getattr(m, "running_mean", None) is not None]
        self.kept = [(norm, dict(norm._buffers)) for norm in norms]
        for norm, buffers in self.kept:
            norm._buffers.update({name: each.clone() for name, each in buffers.items() if each is not None})

    def __exit__(self, *_: object) -> None:
        for norm, buffers in self.kept:
            norm._buffers.update(buffers)
