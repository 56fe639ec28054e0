"""A batch in micro-batches, for memory's sake: gradients that are those of the whole batch.

Terms of single samples add up, so each micro-batch is weighted by its share and run backward at once. Terms that
couple samples need all outputs together: these are computed without gradient first, the loss is differentiated by
them, and a second forward of each micro-batch carries the gradients on to the weights (Gao et al., "Scaling Deep
Contrastive Learning Batch Size under Memory Limited Setup", RepL4NLP 2021). Batch norms in training see only their
micro-batch, either way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdtool.engine.dry import kept_buffers
from kdtool.engine.job import Loaded
from kdtool.engine.processes import world_size
from kdtool.engine.step import Step, count_labelled, join_outs, map_out
from kdtool.engine.taught import Taught
from kdtool.losses import widened
from kdtool.method import Batch, Out, Terms

Loss = Callable[[Out, list[Out]], tuple[Terms, Batch]]


@dataclass(frozen=True)
class Share:
    """How a process's part of the batch is weighted: rows count alike wherever they are.

    Attributes:
        rows: of a process, the mean over the processes; they differ where samples are ragged.
        labelled: scalar, labelled rows of a process, the mean over the processes; None: one process and one part.
        taught: likewise, rows that the teachers speak of; None as well where these are all.
    """

    rows: float
    labelled: Tensor | None
    taught: Tensor | None = None

    @classmethod
    def of(cls, whole: Loaded, pieces: int) -> Share:
        """Count a process's part, once a step, however many pieces each process makes of its own."""
        if pieces == 1 and world_size() == 1:
            return cls(len(whole.index), None)
        taught = [] if whole.taught is None else [whole.taught.sum()]
        counts = torch.stack([whole.index.new_full((), len(whole.index)), count_labelled(whole.labels), *taught])
        counts = widened(counts.float())
        if world_size() > 1:
            torch.distributed.all_reduce(counts)
            counts = counts / world_size()
        rows = float(counts[0]) if whole.rows is not None else len(whole.index)
        return cls(rows, counts[1], counts[2] if taught else None)

    def of_terms(self, part: Loaded) -> float:
        """Return what a part's terms, means over its rows, are multiplied by, so that all parts' add up."""
        return len(part.index) / self.rows

    def of_labels(self, part: Loaded) -> Tensor | float:
        """Return by what a part's mean hard-label loss is off besides: its share of the labelled rows is another."""
        return 1.0 if self.labelled is None else self._off(count_labelled(part.labels), self.labelled, part)

    def of_taught(self, part: Loaded) -> Taught | None:
        """Return the rows of a part that the teachers speak of, with what its mean over them is off by besides."""
        if part.taught is None:
            return None
        return Taught(part.taught, 1.0 if self.taught is None else self._off(part.taught.sum(), self.taught, part))

    def _off(self, own: Tensor, of_a_process: Tensor, part: Loaded) -> Tensor:
        return (widened(own.float()) / of_a_process.clamp(min=1e-9)) * (self.rows / len(part.index))


def cached_backward(step: Step, inputs: Sequence[Any], seed: Callable[[int], None], loss: Loss) -> tuple[Terms, Any]:
    """Run a coupled loss over micro-batches backward; return its terms and the batch.

    Args:
        step: whose networks are run, twice for each micro-batch.
        inputs: the micro-batches' trees of inputs.
        seed: called with a micro-batch's number before each of its forwards, so that dropout is the same in both.
        loss: of the outputs of all.
    """
    outs: list[tuple[Out, list[Out]]] = []
    with torch.no_grad(), kept_buffers(step.student, *step.peers):  # not a method's banks, which may be large
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
    return [out.logits, *taps, *(tensor for each in out.views.values() for tensor in _tensors(each))]


def _leaf(parts: list[Out]) -> Out:
    """Return the parts' outputs in a row, as tensors that collect gradients."""
    return map_out(join_outs(parts), lambda tensor: tensor.detach().requires_grad_())


def _gradients(out: Out, lengths: list[int]) -> list[Any]:
    return [tensor.grad.split(lengths) if tensor.grad is not None else None for tensor in _tensors(out)]
