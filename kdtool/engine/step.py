"""One training step's forward: student, teachers or peers, and the terms of the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kdtool.engine.by_input import call, frozen
from kdtool.engine.chunks import chunked, terms_by_rows
from kdtool.engine.precision import Precision
from kdtool.engine.processes import gather, world_size
from kdtool.engine.rows import Context, Deferred, is_late, whole
from kdtool.engine.taught import Taught
from kdtool.engine.tree import Views, usual
from kdtool.engine.watched import Watched
from kdtool.losses import at_least_fp32
from kdtool.method import Batch, Method, Out, Stage, Terms

TASK = "task"
"""Name of the hard-label term among a step's terms."""


def run_network(network: nn.Module, inputs: Any, precision: Precision, late: bool = False) -> Out:
    """Run a tapped network on a tree of inputs, in all their views; logits and taps are in at least fp32.

    Args:
        network: tapped.
        inputs: a tree.
        precision: of the forward.
        late: leave logits to be made that the network defers.
    """

    def run(inputs: Any) -> Out:
        with precision.forward():
            found = call(network, inputs)
        return as_out(found, at_least_fp32, precision.forward, late)

    return in_all_views(inputs, run)


def in_all_views(inputs: Any, run: Callable[[Any], Out]) -> Out:
    """Return what a network gives for inputs in the usual view, with what it gives for further ones."""
    out = run(usual(inputs))
    further = inputs.further if isinstance(inputs, Views) else {}
    return replace(out, views={name: run(each) for name, each in further.items()}) if further else out


def as_out(
    found: tuple[Any, ...], convert: Callable[[Tensor], Tensor], context: Context = nullcontext, late: bool = False
) -> Out:
    """Return what a tapped network gave: logits, taps and, where there are sequences with padding, their mask.

    Args:
        found: as the network gave it.
        convert: applied to logits and taps, and to the hidden states of deferred logits.
        context: gives what a head runs under that makes deferred logits.
        late: leave these to be made.
    """
    logits, taps, *mask = found
    if isinstance(logits, Deferred):
        logits = logits.under(context)
    if is_late(logits) and not late:
        logits = logits.whole()
    return map_out(Out(logits, taps, *mask), convert)


def map_out(out: Out, convert: Callable[[Tensor], Tensor]) -> Out:
    """Return outputs with logits (or the hidden states of deferred ones) and taps converted; the mask stays."""
    taps = {
        role: [convert(t) for t in tap] if isinstance(tap, list) else convert(tap) for role, tap in out.taps.items()
    }
    logits: Any = out.logits
    if isinstance(logits, Deferred):
        logits = logits.of(convert(logits.hidden_RD))
    elif not is_late(logits):
        logits = convert(logits)
    return Out(logits, taps, out.mask, {name: map_out(each, convert) for name, each in out.views.items()})


def whole_out(out: Out, beside: Tensor | None = None) -> Out:
    """Return outputs with their logits made, those of further views too; ``beside`` as for ``Late.whole``."""
    given: Any = out.views
    views = given.mapped(whole_out) if isinstance(given, Watched) else {n: whole_out(each) for n, each in given.items()}
    return replace(out, logits=whole(out.logits, beside), views=views)


def join_outs(outs: Sequence[Out]) -> Out:
    """Return the outputs of several micro-batches as those of one batch."""

    def join(taps: list[Any]) -> Any:
        return [torch.cat(layer) for layer in zip(*taps, strict=True)] if isinstance(taps[0], list) else torch.cat(taps)

    taps = {role: join([out.taps[role] for out in outs]) for role in outs[0].taps}
    masks = [out.mask for out in outs if out.mask is not None]
    views = {name: join_outs([out.views[name] for out in outs]) for name in outs[0].views}
    return Out(torch.cat([out.logits for out in outs]), taps, torch.cat(masks) if masks else None, views)


def _gathered(out: Out) -> Out:
    """Return the outputs of all processes' parts of the batch, with gradient."""
    whole = map_out(replace(out, views={}), gather)
    mask = None if out.mask is None else gather(out.mask.long()).bool()
    return replace(whole, mask=mask, views={name: _gathered(each) for name, each in out.views.items()})


def has(method: Method | None, hook: str) -> bool:
    """Return whether a method, or a part of several as one, does something in a hook that does nothing by default."""
    methods = [] if method is None else [m for m in method.modules() if isinstance(m, Method)]
    # Of several methods as one, only the parts can tell.
    return any(getattr(type(each), hook) is not getattr(Method, hook) for each in methods[len(methods) > 1 :])


def count_labelled(labels: Tensor) -> Tensor:
    """Return how many of (R,) or (R, K) labels are there, a scalar on their device."""
    return ((labels >= 0) if labels.ndim == 1 else (labels.sum(1) > 0)).sum()


def teach(teachers: Sequence[nn.Module], inputs: Any, precision: Precision) -> list[Out]:
    """Return the frozen teachers' outputs, without gradient but for that by the inputs where it is wanted."""

    def run(teacher: nn.Module) -> Out:
        with frozen(teacher, torch.no_grad):
            return run_network(teacher, inputs, precision)

    return list(map(run, teachers))


class Step(nn.Module):
    """All that trains, as one module: the student, the method's own parts and an online method's peers."""

    def __init__(
        self,
        student: nn.Module,
        method: Method | None,
        peers: Sequence[nn.Module],
        task_loss: Callable[[Tensor, Tensor], Tensor],
        precision: Precision,
    ):
        super().__init__()
        self.student = student
        self.method = method
        self.peers = nn.ModuleList(peers)
        self.task_loss = task_loss
        self.precision = precision
        self.stage: Stage | None = None
        self.turn: int | None = None  # of the stage's turns the one that is taken; None: all that the stage trains

    @property
    def couples_samples(self) -> bool:
        """Whether the method's terms relate the samples of a batch to one another."""
        return self.method is not None and self.method.batch == "global"

    @property
    def keeps_state(self) -> bool:
        """Whether a method wants whole batches after the step, too."""
        return has(self.method, "after_step")

    def forward(
        self,
        inputs: Any,
        labels: Tensor,
        index: Tensor,
        teachers: list[Out],
        epoch: int,
        progress: float,
        task_scale: Tensor | float = 1.0,
        taught: Taught | None = None,
        drawn: Mapping[str, Tensor] | None = None,
    ) -> tuple[dict[str, Tensor], Batch]:
        """Return the weighted terms by name (their sum is the loss) and the batch as the method saw it.

        Args:
            inputs, labels, index: this process's part of the batch; the inputs are a tree.
            teachers: the frozen teachers' outputs for it.
            epoch, progress: as in ``Batch``.
            task_scale: factor of the hard-label loss, for a part with another share of labels than the whole batch.
            taught: the rows that the teachers speak of; None: all.
            drawn: as in ``Batch``; None: nothing was.
        """
        student, peers = self.networks(inputs)
        return self.losses(student, peers or teachers, labels, index, epoch, progress, task_scale, taught, drawn)

    def networks(self, inputs: Any) -> tuple[Out, list[Out]]:
        """Return the outputs of the student and of the peers."""
        assert self.stage is not None, "set a stage before the first step"
        if self.method is None:  # a baseline has no use for further views
            inputs = usual(inputs)
        with torch.set_grad_enabled(torch.is_grad_enabled() and "student" in self.stage.trains):
            student = run_network(self.student, inputs, self.precision, late=not self.couples_samples)
        return student, [run_network(peer, inputs, self.precision) for peer in self.peers]

    def losses(
        self,
        student: Out,
        teachers: list[Out],
        labels: Tensor,
        index: Tensor,
        epoch: int,
        progress: float,
        task_scale: Tensor | float = 1.0,
        taught: Taught | None = None,
        drawn: Mapping[str, Tensor] | None = None,
    ) -> tuple[dict[str, Tensor], Batch]:
        """Return the weighted terms of outputs, and the batch; arguments as for ``forward``."""
        stage, written = self.stage, drawn or {}
        assert stage is not None, "set a stage before the first step"
        # Terms that couple samples need all of the global batch, on every process.
        if self.couples_samples and world_size() > 1:
            teachers = [whole_out(out, student.logits) for out in teachers]
            student, teachers = _gathered(student), [_gathered(out) for out in teachers]
            labels, index, task_scale = gather(labels), gather(index), 1.0
            taught = None if taught is None else Taught(gather(taught.rows.long()).bool())
            written = {name: gather(values) for name, values in written.items()}

        def terms_of(batch: Batch, taught: Taught | None) -> Terms:
            loss = stage.loss if self.turn is None else stage.turns[self.turn]
            with self.precision.loss():
                terms = dict(loss(batch) if taught is None else taught.terms(loss, batch, self.task_loss))
                if stage.task_weight and self.turn in (None, len(stage.turns) - 1):
                    terms[TASK] = stage.task_weight * batch.task_loss(batch.student.logits)
            return terms

        def batch_of(student: Out, teachers: list[Out], rows: slice, scale: Tensor | float) -> Batch:
            def task_loss(logits: Tensor) -> Tensor:
                return scale * self.task_loss(logits, labels[rows])

            values = {name: each[rows] for name, each in written.items()}
            return Batch(labels[rows], index[rows], student, teachers, task_loss, epoch, progress, values)

        every = slice(0, len(index))
        if not self.peers and not self.keeps_state and chunked(student, teachers):
            # Not in float64 throughout, which not every accelerator has.
            labelled = count_labelled(labels).clamp(min=1).to(next(self.student.parameters()).dtype)

            def losses(student: Out, teachers: list[Out], rows: slice) -> Terms:
                # A chunk's mean is over its own labels, and counts by its rows.
                share = count_labelled(labels[rows]) / labelled * (len(index) / len(index[rows]))
                here = None if taught is None else taught.chunk(rows)
                return terms_of(batch_of(student, teachers, rows, task_scale * share), here)

            own = [] if self.method is None else self.method.parameters()
            return terms_by_rows(student, teachers, own, losses), batch_of(student, teachers, every, task_scale)
        student = whole_out(student)
        teachers = [whole_out(out, student.logits) for out in teachers]
        batch = batch_of(student, teachers, every, task_scale)
        return terms_of(batch, taught), batch
