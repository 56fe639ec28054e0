"""What a network costs: parameters and multiply-accumulates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from kdtool.engine.dry import undisturbed
from kdtool.engine.rows import whole


def parameters(module: nn.Module) -> int:
    """Return the number of a network's parameters, shared ones counted once."""
    return sum(parameter.numel() for parameter in module.parameters())


def macs(module: nn.Module, inputs: Any) -> int:
    """Return the multiply-accumulates of one forward: convolutions, matrix products, attention, recurrent layers.

    Args:
        module: called with ``inputs``; without a trace in it.
        inputs: of one sample.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    # The counter knows attention as matrix products on every device, the fused kernels only on some.
    with undisturbed(module), sdpa_kernel(SDPBackend.MATH), counted(module) as count, torch.no_grad():
        found = module(inputs)
        whole(found[0] if isinstance(found, tuple) else found)  # a head's work, too
    return count.macs


class Count:
    """Multiply-accumulates so far.

    Attributes:
        recurrent: of recurrent layers, those alone that torch's counter passes over.
    """

    def __init__(self, counter: Any):
        self.counter, self.recurrent = counter, 0

    @property
    def macs(self) -> int:
        """All of them. torch's counter gives floating-point operations, two for each multiply-accumulate."""
        return self.seen // 2 + self.recurrent

    @property
    def seen(self) -> int:
        """Floating-point operations that torch's own counter saw."""
        return int(self.counter.get_total_flops())


@contextmanager
def counted(*modules: nn.Module, mapping: Mapping[Any, Any] | None = None) -> Iterator[Count]:
    """Count what is computed in this context.

    Args:
        modules: whose LSTMs, GRUs and RNNs are counted, of which torch's counter may see nothing: on some devices one
            fused kernel does a whole layer's work. What the counter sees of a call (elsewhere it is made of matrix
            products) is not counted twice.
        mapping: by operation, how torch's counter is to count it, beside what it knows.
    """
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False, custom_mapping=dict(mapping or {}))
    count, before = Count(counter), list[int]()

    def begin(*_: Any) -> None:
        before.append(count.seen)

    def end(layer: nn.RNNBase, given: tuple[Any, ...], named: Mapping[str, Any], _: Any) -> None:
        if count.seen == before.pop():
            count.recurrent += recurrent_macs(layer, given[0] if given else named["input"])

    layers = {each for module in modules for each in module.modules() if isinstance(each, nn.RNNBase)}
    handles = [handle for each in layers for handle in (
        each.register_forward_pre_hook(begin), each.register_forward_hook(end, with_kwargs=True)
    )]  # fmt: skip
    try:
        with counter:
            yield count
    finally:
        for handle in handles:
            handle.remove()


def recurrent_macs(layer: nn.RNNBase, given: torch.Tensor | PackedSequence) -> int:
    """Return the multiply-accumulates of an LSTM, GRU or RNN: every weight (but biases) is used once a step.

    Args:
        layer: of any depth, in one direction or both.
        given: (B, L, D), (L, B, D), (L, D), or a packed sequence, whose padding costs nothing.
    """
    steps = len(given.data) if isinstance(given, PackedSequence) else given.numel() // layer.input_size
    return steps * sum(weight.numel() for name, weight in layer.named_parameters() if name.startswith("weight"))
