"""A network's outputs over a whole split."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdtool.engine.job import Batches
from kdtool.engine.precision import Precision
from kdtool.engine.step import run_network


@torch.no_grad()
def predict(network: nn.Module, batches: Batches, precision: Precision) -> tuple[Tensor, Tensor]:
    """Return logits (N, K) and labels (N,) of a split, on the CPU, with the network in evaluation mode."""
    network.eval()
    logits, labels = [], []
    for batch in batches.epoch(0):
        logits.append(run_network(network, batch.inputs.to(precision.dtype), precision).logits)
        labels.append(batch.labels)
    return torch.cat(logits).cpu(), torch.cat(labels).cpu()
