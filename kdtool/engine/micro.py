"""A batch in micro-batches, for memory's sake: gradients that are those of the whole batch.

Terms of single samples add up, so each micro-batch is weighted by its share and run backward at once. Terms that
couple samples need all outputs together: these are computed without gradient first, the loss is differentiated by
them, and a second forward of each micro-batch carries the gradients on to the weights (Gao et al., "Scaling Deep
Contrastive Learning Batch Size under Memory Limited Setup", RepL4NLP 2021). Batch norms in training see only their
micro-batch, either way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kdtool.engine.dry import kept_buffers
from kdtool.engine.job import Loaded
from kdtool.engine.processes import world_size
from kdtool.engine.step import Step
from kdtool.method import Batch, Out, Terms

Loss = Callable[[Out, list[Out]], tuple[Terms, Batch]]


def rows_of_a_process(whole: Loaded) -> float:
    """Return the rows of a process's part of the batch: the mean over the processes, where samples are ragged."""
    if whole.rows is None or world_size() == 1:
        return len(whole.index)
    rows = torch.tensor(float(len(whole.index)), dtype=torch.float64, device=whole.index.device)
    torch.distributed.all_reduce(rows)
    return rows.item() / world_size()


def label_scale(part: Tensor, whole: Tensor, rows: float) -> Tensor | float:
    """Return by what a part's mean hard-label loss is off, for its share of the whole's labelled rows is another.

    Args:
        part, whole: labels as in ``Batch``; ``whole`` is all of this process's.
        rows: as ``rows_of_a_process`` has them.

    Returns:
        a scalar; multiplied by it, the parts' means, each weighted by its share of the rows, add up to the mean over
        the labelled rows of all parts on all processes.
    """
    if len(part) == rows and world_size() == 1:
        return 1.0
    counts = torch.stack([_labelled(part), _labelled(whole)]).double()
    if world_size() > 1:
        everywhere = counts[1].clone()
        torch.distributed.all_reduce(everywhere)
        counts[1] = everywhere / world_size()
    return (counts[0] / counts[1].clamp(min=1e-9)) * (rows / len(part))


def _labelled(labels: Tensor) -> Tensor:
    return ((labels >= 0) if labels.ndim == 1 else (labels.sum(1) > 0)).sum()


def cached_backward(step: Step, inputs: Sequence[Any], seed: Callable[[int], None], loss: Loss) -> tuple[Terms, Any]:
    """Run a coupled loss over micro-batches backward; return its terms and the batch.

    Args:
        step: whose networks are run, twice for each micro-batch.
        inputs: the micro-batches' trees of inputs.
        seed: called with a micro-batch's number before each of its forwards, so that dropout is the same in both.
        loss: of the outputs of all.
    """
    outs: list[tuple[Out, list[Out]]] = []
    with torch.no_grad(), kept_buffers(step):
        for number, part in enumerate(inputs):
            seed(number)
            outs.append(step.networks(part))
    student = _leaf([out for out, _ in outs])
    peers = [_leaf(list(each)) for each in zip(*(peers for _, peers in outs), strict=True)]
    terms, batch = loss(student, peers)
    sum(terms.values(), torch.zeros((), device=student.logits.device)).backward()
    gradients = [_gradients(out, [len(part.logits) for part, _ in outs]) for out in (student, *peers)]
    for number, part in enumerate(inputs):
        seed(number)
        again, others = step.networks(part)
        pairs = [
            (tensor, each[place][number])
            for out, each in zip((again, *others), gradients, strict=True)
            for place, tensor in enumerate(_tensors(out))
            if tensor.requires_grad and each[place] is not None
        ]
        if pairs:
            torch.autograd.backward([tensor for tensor, _ in pairs], [gradient for _, gradient in pairs])
    return terms, batch


def _tensors(out: Out) -> list[Tensor]:
    taps = [t for tap in out.taps.values() for t in (tap if isinstance(tap, list) else [tap])]
    return [out.logits, *taps]


def _leaf(parts: list[Out]) -> Out:
    """Return the parts' outputs in a row, as tensors that collect gradients."""

    def join(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(tensors)).detach().requires_grad_()

    def join_tap(taps: Sequence[Any]) -> Any:
        return [join(layer) for layer in zip(*taps, strict=True)] if isinstance(taps[0], list) else join(taps)

    taps = {role: join_tap([part.taps[role] for part in parts]) for role in parts[0].taps}
    return Out(join([part.logits for part in parts]), taps)


def _gradients(out: Out, lengths: list[int]) -> list[Any]:
    return [tensor.grad.split(lengths) if tensor.grad is not None else None for tensor in _tensors(out)]
