"""A network's outputs over a whole split."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdtool.engine.job import Batches
from kdtool.engine.precision import Precision
from kdtool.engine.processes import from_all
from kdtool.engine.step import run_network


@torch.no_grad()
def predict(network: nn.Module, batches: Batches, precision: Precision) -> tuple[Tensor, Tensor]:
    """Return logits (N, K) and labels (N,) of a split, on the CPU, with the network in evaluation mode."""
    network.eval()
    found = []
    for batch in batches.epoch(0):
        logits = run_network(network, batch.inputs.to(precision.dtype), precision).logits
        found.append((batch.index, logits, batch.labels))
    # Each process has seen its part of the split.
    whole = [part for parts in from_all([tuple(t.cpu() for t in each) for each in found]) for part in parts]
    index, logits, labels = (torch.cat(column) for column in zip(*whole, strict=True))
    order = index.argsort()
    return logits[order], labels[order]
