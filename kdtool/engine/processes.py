"""Several processes as one: outputs gathered with gradient, so that losses which couple samples see all of them."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from kdtool.method import Out


def world_size() -> int:
    """Return how many processes train together; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather(tensor: Tensor) -> Tensor:
    """Return (world·B, ...) of every process's (B, ...), in rank order, equal on all of them; with gradient.

    Every process computes the same loss from it, and DDP averages their gradients: to make that average the gradient
    of the one loss, backward sums what all processes send to a sample's owner.
    """
    if world_size() == 1:
        return tensor
    if not tensor.requires_grad:
        return _collect(tensor)
    gathered: Tensor = _Gather.apply(tensor)
    return gathered


def gather_out(out: Out) -> Out:
    """Gather logits and taps."""
    return Out(gather(out.logits), {role: _gather_tap(tap) for role, tap in out.taps.items()})


def _gather_tap(tap: Any) -> Any:
    return [gather(t) for t in tap] if isinstance(tap, list) else gather(tap)


def _collect(tensor: Tensor) -> Tensor:
    tensor = tensor.contiguous()
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor)
    return torch.cat(parts)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.count = len(tensor)
        return _collect(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        whole = gradients[0].contiguous().clone()
        dist.all_reduce(whole)
        start = dist.get_rank() * ctx.count
        return whole[start : start + ctx.count]
