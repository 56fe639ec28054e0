"""What the checks of methods work on: tapped networks, a method on top, and batches, all functions of small seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from kdtool.engine import tree
from kdtool.engine.freeze import Frozen
from kdtool.engine.job import Loaded
from kdtool.engine.precision import Precision
from kdtool.engine.step import Step, teach
from kdtool.errors import InputError
from kdtool.method import Batch, Method, Out, Setup, Stage
from kdtool.randomness import seed_torch
from kdtool.runs.networks import further_views, tap_networks
from kdtool.tasks.task import Built
from kdtool.testing.faults import RefusedError
from kdtool.testing.material import BATCH, CPU, Material, material


@dataclass
class Rig:
    """A student, its teachers or peers and the method, as the engine holds them.

    Attributes:
        step: all that trains.
        teachers: frozen networks; none for online and self methods.
        batches: what they are trained on.
        student: as it was built.
    """

    step: Step
    teachers: list[nn.Module]
    precision: Precision
    batches: list[Loaded]
    student: Built

    @property
    def method(self) -> Method:
        method = self.step.method
        assert method is not None
        return method

    @property
    def stages(self) -> list[Stage]:
        return self.method.stages()

    def enter(self, stage: Stage) -> Frozen:
        """Start a stage as the engine does: freeze what it does not train."""
        self.step.stage = stage
        frozen = Frozen(self.step, stage, lambda: total(self.terms(self.batches[0])))
        frozen.train_mode()
        return frozen

    def teach(self, batch: Loaded) -> list[Out]:
        """Return the frozen teachers' outputs."""
        return teach(self.teachers, tree.cast(batch.inputs, self.precision.dtype), self.precision)

    def run(
        self, batch: Loaded, teachers: list[Out] | None = None, step: Any = None
    ) -> tuple[dict[str, Tensor], Batch]:
        """Return the weighted terms and the batch as the method saw it.

        Args:
            batch: inputs and labels.
            teachers: their outputs; None: live ones.
            step: in the place of ``self.step``, such as a compiled one.
        """
        outs = self.teach(batch) if teachers is None else teachers
        inputs = tree.cast(batch.inputs, self.precision.dtype)
        # The engine seeds the generators at every step, too.
        seed_torch("check", "step")
        call = self.step if step is None else step
        found: tuple[dict[str, Tensor], Batch] = call(inputs, batch.labels, batch.index, outs, 0, 0.25)
        return found

    def terms(self, batch: Loaded) -> dict[str, Tensor]:
        """Return the weighted terms of a batch, the hard-label one included."""
        return self.run(batch)[0]

    def train(self, batch: Loaded, lr: float) -> None:
        """Take one plain gradient step, then let the method update its state."""
        terms, seen = self.run(batch)
        loss = total(terms)
        if loss.requires_grad:  # a batch without labels may have nothing to teach
            loss.backward()
        with torch.no_grad():
            for parameter in self.step.parameters():
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad, alpha=lr)
                    parameter.grad = None
            self.method.after_step(seen)

    def gradients(self) -> dict[str, Tensor]:
        """Return the gradient of every parameter that has one, by name, and clear it."""
        found = {name: p.grad.clone() for name, p in self.step.named_parameters() if p.grad is not None}
        self.step.zero_grad(set_to_none=True)
        return found


def total(terms: dict[str, Tensor]) -> Tensor:
    """Return the loss: the sum of its terms.

    Raises:
        TypeError: a term is no scalar tensor.
    """
    odd = [name for name, term in terms.items() if not isinstance(term, Tensor) or term.ndim > 0]
    if odd or not terms:
        raise TypeError(f"a loss must return scalar tensors by name; {', '.join(odd) or 'none'} returned")
    values = list(terms.values())
    return sum(values[1:], values[0])


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn the error with which a method refuses a pair into one of the kit's own."""
    try:
        yield
    except InputError as error:
        raise RefusedError(str(error)) from error


@dataclass(frozen=True)
class Bench:
    """Builds rigs of one method on one task.

    Attributes:
        cls: the method.
        name: what messages call it.
        task: the task's name.
    """

    cls: type[Method]
    name: str
    task: str

    @property
    def material(self) -> Material:
        """The task's data and networks."""
        return material(self.task)

    def rig(
        self,
        student: str | None = None,
        teachers: str | Sequence[str] | None = None,
        *,
        seed: int = 0,
        precision: str = "fp32",
        labels: Tensor | None = None,
        change: Callable[[nn.Module, list[nn.Module]], None] | None = None,
    ) -> Rig:
        """Return a fresh rig, its first weights functions of ``seed``.

        Args:
            student: kind of the student; None: the usual one, of those that the method takes.
            teachers: kind of the teacher, repeated to as many as the method needs; or one kind for each teacher; None:
                the first that goes with the student.
            seed: of the student's, its peers' and the method's first weights; frozen teachers' are always the same.
            precision: as ``train.precision``.
            labels: (rows,) classes of all training samples; default: all known.
            change: gets the plain student and teachers before they are tapped.
        """
        if student is None or teachers is None:
            student, teachers = self._usual(student, teachers)
        found, task, cfg = self.material, self.material.task, self.cls.Config()
        kinds = [teachers] * self.teacher_count if isinstance(teachers, str) else list(teachers)
        methods, options = {self.name: self.cls}, {self.name: cfg}
        with _refusals():
            views = further_views(task, methods, options)
        own, others = found.networks(student, kinds, seed, self.cls.online)
        if change is not None:
            change(own.module, [built.module for built in others])
        tapped = tap_networks(task, options, methods, own, others)
        student_net, nets = tapped.student_net, tapped.teacher_nets
        setup = Setup(
            student=tapped.shapes[0],
            teachers=tapped.shapes[1],
            num_classes=found.objective.num_classes,
            num_samples=len(found.labels),
            batch_size=BATCH,
            labels=found.labels if labels is None else labels,
            student_parts=tapped.parts[0],
            teacher_parts=tapped.parts[1],
        )
        seed_torch("init", "method", seed)
        with _refusals():
            method = self.cls(cfg, setup)
        arithmetic = Precision(precision, CPU)
        peers: list[nn.Module] = list(nets) if self.cls.online else []
        frozen: list[nn.Module] = [] if self.cls.online else [net.eval().requires_grad_(False) for net in nets]
        step = Step(student_net, method, peers, found.objective.hard_loss, arithmetic)
        dtype = arithmetic.dtype
        return Rig(
            step.to(dtype), [net.to(dtype) for net in frozen], arithmetic, found.batches([own, *others], views), own
        )

    def _usual(self, student: str | None, teachers: Any) -> tuple[str, Any]:
        """Return the first pair that the method takes, of those with what is given."""
        for ours, theirs in self.pairs:
            if student in (None, ours) and (not isinstance(teachers, str) or teachers == theirs):
                return ours, teachers or theirs
        raise RefusedError(f"it takes no such pair here: {next(iter(self.refusals.values()))}")

    @property
    def all_pairs(self) -> list[tuple[str, str]]:
        """The (student, teacher) kinds: all, or each student once where there is no teacher."""
        kinds = self.material.kinds
        if not self.teacher_count:
            return [(kind, kind) for kind in kinds]
        return [(student, teacher) for student in kinds for teacher in kinds]

    @cached_property
    def refusals(self) -> dict[tuple[str, str], str]:
        """The pairs that the method refuses as it is built with an ``InputError``, each with its message."""
        found = {}
        for pair in self.all_pairs:
            try:
                self.rig(*pair)
            except RefusedError as error:
                found[pair] = str(error)
            except InputError:  # of its taps, say: for the check of this pair to tell
                continue
        return found

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The pairs to check: all but those that the method refuses.

        Raises:
            RefusedError: it refuses all.
        """
        found = [pair for pair in self.all_pairs if pair not in self.refusals]
        if not found:
            raise RefusedError(next(iter(self.refusals.values())))
        return found

    @property
    def teacher_count(self) -> int:
        """The fewest teachers that the method takes, but one where it takes any."""
        low, high = self.cls.teachers
        return 0 if high == 0 else max(1, low)
