"""A network's metrics over a whole split."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from kdtool.engine.job import Batches, Meter
from kdtool.engine.precision import Precision
from kdtool.engine.processes import from_all
from kdtool.engine.rows import chunks, whole
from kdtool.engine.tree import cast
from kdtool.losses import at_least_fp32


@torch.no_grad()
def evaluate(network: nn.Module, batches: Batches, precision: Precision, meter: Meter) -> dict[str, Any]:
    """Return the metrics of a tapped network in evaluation mode; each process has seen its part of the split."""
    network.eval()
    for batch in batches.epoch(0):
        with precision.forward():
            logits = network(cast(batch.inputs, precision.dtype))[0]
            sizes = chunks(logits)
            for part, labels, index in zip(
                logits.split(sizes), batch.labels.split(sizes), batch.index.split(sizes), strict=True
            ):
                meter.add(at_least_fp32(whole(part)), labels, index)
    meter.merge(from_all(meter.state()))
    return meter.metrics()


def evaluate_in_fp32(network: nn.Module, batches: Batches, device: torch.device, meter: Meter) -> dict[str, Any]:
    """Return the metrics that a plain user gets, whatever the precision of the training."""
    return evaluate(network.to(device, torch.float32), batches, Precision("fp32", device), meter)
