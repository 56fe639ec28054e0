"""A network's metrics over a whole split."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from kdtool.engine.job import Batches, Meter
from kdtool.engine.precision import Precision, without_tf32
from kdtool.engine.processes import from_all
from kdtool.engine.rows import chunks, whole
from kdtool.engine.step import run_network
from kdtool.engine.tree import cast


@torch.no_grad()
def evaluate(network: nn.Module, batches: Batches, precision: Precision, meter: Meter) -> dict[str, Any]:
    """Return the metrics of a tapped network in evaluation mode; each process has seen its part of the split."""
    network.eval()
    for batch in batches.epoch(0):
        logits = run_network(network, cast(batch.inputs, precision.dtype), precision, late=True).logits
        sizes = chunks(logits)
        parts = logits.split(sizes), batch.labels.split(sizes), batch.index.split(sizes)
        for some, labels, index in zip(*parts, strict=True):
            meter.add(whole(some), labels, index)
    meter.merge(from_all(meter.state()))
    return meter.metrics()


def evaluate_in_fp32(network: nn.Module, batches: Batches, device: torch.device, meter: Meter) -> dict[str, Any]:
    """Return the metrics that a plain user gets, whatever the precision of the training."""
    with without_tf32():
        return evaluate(network.to(device, torch.float32), batches, Precision("fp32", device), meter)
