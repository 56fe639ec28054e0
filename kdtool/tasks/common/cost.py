"""What a network costs: parameters and multiply-accumulates."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from kdtool.engine.dry import undisturbed


def parameters(module: nn.Module) -> int:
    """Return the number of a network's parameters, shared ones counted once."""
    return sum(parameter.numel() for parameter in module.parameters())


def macs(module: nn.Module, inputs: Any) -> int:
    """Return the multiply-accumulates of one forward: convolutions, matrix products and attention.

    torch's counter gives floating-point operations, two for each multiply-accumulate.

    Args:
        module: called with ``inputs``; without a trace in it.
        inputs: of one sample.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # The counter knows attention as matrix products on every device, the fused kernels only on some.
    counter = FlopCounterMode(display=False)
    with undisturbed(module), sdpa_kernel(SDPBackend.MATH), counter, torch.no_grad():
        module(inputs)
    return int(counter.get_total_flops()) // 2
