"""What a network costs: parameters and multiply-accumulates."""

from __future__ import annotations

import torch
from torch import nn

from kdtool.engine.dry import dry_images, undisturbed


def parameters(module: nn.Module) -> int:
    """Return the number of a network's parameters, shared ones counted once."""
    return sum(parameter.numel() for parameter in module.parameters())


def macs(module: nn.Module, image_size: int) -> int:
    """Return the multiply-accumulates of one image's forward: convolutions, matrix products and attention.

    torch's counter gives floating-point operations, two for each multiply-accumulate.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # The counter knows attention as matrix products on every device, the fused kernels only on some.
    counter = FlopCounterMode(display=False)
    with undisturbed(module), sdpa_kernel(SDPBackend.MATH), counter, torch.no_grad():
        module(dry_images(module, image_size, batch=1))
    return int(counter.get_total_flops()) // 2
