"""A network's metrics over a whole split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from kdtool.engine.job import Batches, Meter
from kdtool.engine.precision import Precision, without_tf32
from kdtool.engine.processes import from_all
from kdtool.engine.rows import chunks, whole
from kdtool.engine.shards import in_step, is_sharded
from kdtool.engine.step import has, run_network, whole_out
from kdtool.engine.tree import cast
from kdtool.method import Method


@torch.no_grad()
def evaluate(network: nn.Module, batches: Batches, precision: Precision, meter: Meter) -> dict[str, Any]:
    """Return the metrics of a tapped network in evaluation mode; each process has seen its part of the split."""
    network.eval()
    for batch, counts in in_step(network, batches.epoch(0)):
        logits = run_network(network, cast(batch.inputs, precision.dtype), precision, late=True).logits
        if not counts:
            continue
        sizes = chunks(logits)
        parts = logits.split(sizes), batch.labels.split(sizes), batch.index.split(sizes)
        for some, labels, index in zip(*parts, strict=True):
            meter.add(whole(some), labels, index)
    meter.merge(from_all(meter.state()))
    return meter.metrics()


def plain_precision(network: nn.Module, device: torch.device) -> Precision:
    """Return the arithmetic in which a plain user runs a network, fp32 whatever it was trained in.

    Not of one that processes have divided and that is of another type: torch keeps memory of that for its blocks.
    """
    wide = is_sharded(network) and next(network.parameters()).dtype == torch.float64
    return Precision("fp64" if wide else "fp32", device)


def evaluate_in_fp32(network: nn.Module, batches: Batches, device: torch.device, meter: Meter) -> dict[str, Any]:
    """Return the metrics that a plain user gets, whatever the precision of the training."""
    plain = plain_precision(network, device)
    with without_tf32():
        return evaluate(network.to(device, plain.dtype), batches, plain, meter)


@torch.no_grad()
def evaluate_predictions(
    student: nn.Module, method: Method | None, batches: Batches, precision: Precision, meter: Callable[[], Meter]
) -> dict[str, dict[str, Any]]:
    """Return by name the metrics of a method's further predictions; none where it makes none.

    Args:
        student: tapped as the method wants it.
        method: trained along.
        batches: of a split.
        precision: of the forward.
        meter: returns a new meter.
    """
    if method is None or not has(method, "predictions"):
        return {}
    student.eval()
    method.eval()
    meters: dict[str, Meter] = {}
    for batch, counts in in_step(student, batches.epoch(0)):
        out = whole_out(run_network(student, cast(batch.inputs, precision.dtype), precision))
        with precision.loss():
            found = method.predictions(out)
        for name, logits in found.items() if counts else ():
            meters.setdefault(name, meter()).add(logits, batch.labels, batch.index)
    every = from_all({name: each.state() for name, each in meters.items()})
    # A process may have seen no batch at all.
    for name in dict.fromkeys(name for states in every for name in states):
        meters.setdefault(name, meter()).merge([states[name] for states in every if name in states])
    return {name: each.metrics() for name, each in meters.items()}
