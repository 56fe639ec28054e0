"""A loss by rows: the head is applied to some rows at a time, and the loss differentiated there and then.

A language model's logits (tokens x 50,000 to 150,000 classes) are larger than all else in a step, several times over
with a loss's own tensors. Terms of single rows are means that add up, so each chunk of rows gives its part of the terms
and of the gradient by hidden states, head and a method's own parameters; the backward pass only scales what is there.
Hsu et al., "Liger Kernel: Efficient Triton Kernels for LLM Training", 2024, section 3.2, do so for cross-entropy; here
it is any loss, none of which knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from kdtool.engine.rows import Deferred, Late, chunks, whole
from kdtool.engine.watched import Watched
from kdtool.method import Out, Terms

Losses = Callable[[Out, list[Out], slice], Terms]
"""Of a chunk's student and teachers, and which rows it is: its terms, means over its rows."""


class RowTerms(dict[str, Tensor]):
    """Terms of many rows. The first term carries the gradient of all of them, so they may only be summed.

    Args:
        terms: by name.
        first: returns the terms of the first chunk, each with its own gradient.
    """

    def __init__(self, terms: Terms, first: Callable[[], Terms]):
        super().__init__(terms)
        self.first = first


def chunked(student: Out, teachers: Sequence[Out]) -> bool:
    """Tell whether outputs can be had a chunk of rows at a time, and it is worth it."""
    logits: Any = student.logits
    rows = logits.shape[0]
    if not isinstance(logits, Deferred) or len(chunks(logits)) < 2:
        return False
    return all(
        out.mask is None and not out.views and all(len(tap) == rows for tap in _taps(out))
        for out in (student, *teachers)
    )


def terms_by_rows(student: Out, teachers: Sequence[Out], parameters: Iterable[nn.Parameter], losses: Losses) -> Terms:
    """Return the terms of all rows, each the mean over them.

    Args:
        student: with deferred logits, and taps by row.
        teachers: their logits there, deferred or kept.
        parameters: what a loss trains besides the student.
        losses: gives a chunk's terms.
    """
    logits: Any = student.logits
    layers = [
        *(p for p in logits.head.parameters() if p.requires_grad),
        *(p for p in parameters if p.requires_grad),
    ]
    work = _Work(student, teachers, layers, losses)
    with_gradient = torch.is_grad_enabled()
    total, *values = _ByRows.apply(work, with_gradient, logits.hidden_RD, *_taps(student), *layers)
    assert work.names is not None
    terms = dict(zip(work.names, values, strict=True))
    if total.requires_grad:
        terms[work.names[0]] = terms[work.names[0]] + (total - total.detach())
    return RowTerms(terms, work.first)


@dataclass
class _Work:
    student: Out
    teachers: Sequence[Out]
    layers: list[nn.Parameter]
    losses: Losses
    names: list[str] | None = None

    def chunks(self, student: Out) -> list[tuple[slice, Out, list[Out]]]:
        sizes = chunks(student.logits)
        parts = [_split(out, sizes) for out in (student, *self.teachers)]
        places = [slice(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True)]
        return [(place, own, list(theirs)) for place, own, *theirs in zip(places, *parts, strict=True)]

    def of(self, place: slice, student: Out, teachers: list[Out]) -> Terms:
        logits = whole(student.logits)
        with torch.no_grad():
            taught = [Out(whole(out.logits, logits), out.taps) for out in teachers]
        return self.losses(Out(logits, student.taps), taught, place)

    def first(self) -> Terms:
        return self.of(*self.chunks(self.student)[0])

    def run(self, leaves: Sequence[Tensor], with_gradient: bool) -> tuple[list[Tensor], list[Tensor | None]]:
        """Return the terms of all rows and their sum's gradient by each leaf."""
        logits: Any = self.student.logits
        taps = iter(leaves[1:])
        student = Out(
            logits.of(leaves[0]),
            {
                role: [next(taps) for _ in tap] if isinstance(tap, list) else next(taps)
                for role, tap in self.student.taps.items()
            },
        )
        count, by_row = logits.shape[0], len(leaves) - len(self.layers)
        sums: dict[str, Any] = {}
        found: list[Tensor | None] = [None] * len(leaves)
        for place, own, theirs in self.chunks(student):
            share = (place.stop - place.start) / count
            with torch.set_grad_enabled(with_gradient):
                rows = [t.detach().requires_grad_(t.is_floating_point() and with_gradient) for t in _by_row(own)]
                terms = self.of(place, _with(own, rows), theirs)
                total = share * sum(terms.values(), torch.zeros((), device=logits.hidden_RD.device))
            for name, term in terms.items():
                sums[name] = sums.get(name, 0.0) + share * term.detach()
            if with_gradient and total.requires_grad:
                gradients = torch.autograd.grad(total, [*rows, *self.layers], allow_unused=True)
                for at, gradient in enumerate(gradients):
                    if gradient is not None:
                        there = found[at]
                        there = torch.zeros_like(leaves[at]) if there is None else there
                        there[place if at < by_row else ...] += gradient
                        found[at] = there
        self.names = list(sums)
        return list(sums.values()), found


class _ByRows(torch.autograd.Function):
    """All rows' terms, with the gradient of their sum found on the way."""

    @staticmethod
    def forward(ctx: Any, work: _Work, with_gradient: bool, *leaves: Tensor) -> tuple[Tensor, ...]:
        values, ctx.gradients = work.run(leaves, with_gradient)
        ctx.mark_non_differentiable(*values)
        return torch.stack(values).sum(), *values

    @staticmethod
    def backward(ctx: Any, scale: Tensor, *_: Any) -> tuple[Any, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        return (None, None, *(None if each is None else each.mul_(scale) for each in gradients))


def _taps(out: Out) -> list[Tensor]:
    # Not out.taps.values(), which would count as reading all of a watched teacher's.
    return [t for tap in dict.values(out.taps) for t in (tap if isinstance(tap, list) else [tap])]


def _by_row(out: Out) -> list[Tensor]:
    logits: Any = out.logits
    return [logits.hidden_RD, *_taps(out)]


def _with(out: Out, rows: Sequence[Tensor]) -> Out:
    """Return an output with other hidden states and taps."""
    logits: Any = out.logits
    rest = iter(rows[1:])
    taps = {role: [next(rest) for _ in tap] if isinstance(tap, list) else next(rest) for role, tap in out.taps.items()}
    return Out(logits.of(rows[0]), taps)


def _split(out: Out, sizes: list[int]) -> list[Out]:
    given: Any = out.logits
    logits: Sequence[Tensor | Late] = given.split(sizes)
    places = [slice(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True)]
    return [Out(each, _taps_at(out, place)) for each, place in zip(logits, places, strict=True)]  # type: ignore[arg-type]


def rows_of(out: Out, places: Tensor) -> Out:
    """Return some rows of outputs whose logits are there, and whose taps are by row."""
    return Out(out.logits[places], _taps_at(out, places))


def _taps_at(out: Out, place: slice | Tensor) -> Any:
    def cut(tap: Any) -> Any:
        return [layer[place] for layer in tap] if isinstance(tap, list) else tap[place]

    given: Any = out.taps
    return given.mapped(cut) if isinstance(given, Watched) else {role: cut(tap) for role, tap in given.items()}
