"""One training step's forward: student, teachers or peers, and the terms of the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kdtool.engine.precision import Precision
from kdtool.engine.processes import gather, world_size
from kdtool.losses import at_least_fp32
from kdtool.method import Batch, Method, Out, Stage

TASK = "task"
"""Name of the hard-label term among a step's terms."""


def run_network(network: nn.Module, inputs: Any, precision: Precision) -> Out:
    """Run a tapped network on a tree of inputs; logits and taps come back in at least fp32."""
    with precision.forward():
        found = network(inputs)
    return as_out(found, at_least_fp32)


def as_out(found: tuple[Any, ...], convert: Callable[[Tensor], Tensor]) -> Out:
    """Return what a tapped network gave: logits, taps and, where there are sequences with padding, their mask."""
    logits, taps, *mask = found
    return map_out(Out(logits, taps, *mask), convert)


def map_out(out: Out, convert: Callable[[Tensor], Tensor]) -> Out:
    """Return outputs with logits and taps converted; the mask stays."""
    taps = {
        role: [convert(t) for t in tap] if isinstance(tap, list) else convert(tap) for role, tap in out.taps.items()
    }
    return Out(convert(out.logits), taps, out.mask)


def join_outs(outs: Sequence[Out]) -> Out:
    """Return the outputs of several micro-batches as those of one batch."""

    def join(taps: list[Any]) -> Any:
        return [torch.cat(layer) for layer in zip(*taps, strict=True)] if isinstance(taps[0], list) else torch.cat(taps)

    taps = {role: join([out.taps[role] for out in outs]) for role in outs[0].taps}
    masks = [out.mask for out in outs if out.mask is not None]
    return Out(torch.cat([out.logits for out in outs]), taps, torch.cat(masks) if masks else None)


def _gathered(out: Out) -> Out:
    """Return the outputs of all processes' parts of the batch, with gradient."""
    whole = map_out(out, gather)
    return whole if out.mask is None else replace(whole, mask=gather(out.mask.long()).bool())


@torch.no_grad()
def teach(teachers: Sequence[nn.Module], inputs: Any, precision: Precision) -> list[Out]:
    """Return the frozen teachers' outputs, without gradient."""
    return [run_network(teacher, inputs, precision) for teacher in teachers]


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

    def forward(
        self,
        inputs: Any,
        labels: Tensor,
        index: Tensor,
        teachers: list[Out],
        epoch: int,
        progress: float,
        task_scale: Tensor | float = 1.0,
    ) -> tuple[dict[str, Tensor], Batch]:
        """Return the weighted terms by name (their sum is the loss) and the batch as the method saw it.

        Args:
            inputs, labels, index: this process's part of the batch; the inputs are a tree.
            teachers: the frozen teachers' outputs for it.
            epoch, progress: as in ``Batch``.
            task_scale: factor of the hard-label loss, for a part with another share of labels than the whole batch.
        """
        student, peers = self.networks(inputs)
        return self.losses(student, peers or teachers, labels, index, epoch, progress, task_scale)

    def networks(self, inputs: Any) -> tuple[Out, list[Out]]:
        """Return the outputs of the student and of the peers."""
        assert self.stage is not None, "set a stage before the first step"
        with torch.set_grad_enabled(torch.is_grad_enabled() and "student" in self.stage.trains):
            student = run_network(self.student, inputs, self.precision)
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
    ) -> tuple[dict[str, Tensor], Batch]:
        """Return the weighted terms of outputs, and the batch; arguments as for ``forward``."""
        stage = self.stage
        assert stage is not None, "set a stage before the first step"
        # Terms that couple samples need all of the global batch, on every process.
        if self.couples_samples and world_size() > 1:
            student, teachers = _gathered(student), [_gathered(out) for out in teachers]
            labels, index, task_scale = gather(labels), gather(index), 1.0

        def task_loss(logits: Tensor) -> Tensor:
            return task_scale * self.task_loss(logits, labels)

        with self.precision.loss():
            batch = Batch(labels, index, student, teachers, task_loss, epoch, progress)
            terms = dict((stage.loss if self.turn is None else stage.turns[self.turn])(batch))
            if stage.task_weight and self.turn in (None, len(stage.turns) - 1):
                terms[TASK] = stage.task_weight * task_loss(student.logits)
        return terms, batch
