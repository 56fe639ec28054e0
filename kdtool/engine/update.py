"""One update of the weights: forward, terms, backward, clip, optimizer, schedule, average."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from kdtool.engine.chunks import RowTerms
from kdtool.engine.dry import Places, copy_buffers, put_back
from kdtool.engine.gradient_norms import gradient_norms
from kdtool.engine.graph import Given, Graphed, why_not
from kdtool.engine.guard import Guard
from kdtool.engine.job import Job, Loaded
from kdtool.engine.launch import as_tensors
from kdtool.engine.memory import agreeing, together
from kdtool.engine.meters import total
from kdtool.engine.micro import Share, cached_backward
from kdtool.engine.optim import begin_momentum, build_optimizer, build_schedule, settings_of
from kdtool.engine.plan import Planned
from kdtool.engine.processes import average_gradients, rank, world_size
from kdtool.engine.shards import clip, is_shard
from kdtool.engine.step import Step, join_outs, whole_out
from kdtool.engine.taught import Taught
from kdtool.engine.teaching import Teaching
from kdtool.engine.tree import cast
from kdtool.engine.writing import Writing
from kdtool.errors import InputError
from kdtool.method import Batch, Out, Terms
from kdtool.randomness import seed_torch


@dataclass
class StepResult:
    """What a step came to.

    Attributes:
        terms: the loss's terms, scalars on the device.
        bad: bool scalar on the device: the update was withheld, since something was not finite.
        withheld: likewise, by fp16's scaler while it looks for a scale; None under other precisions.
        norms: of the terms' gradients, where they were asked for.
    """

    terms: Terms
    bad: Tensor
    withheld: Tensor | None = None
    norms: Terms = field(default_factory=dict)


@dataclass(frozen=True)
class When:
    """Where in its stage a step is.

    Attributes:
        epoch, progress: as in ``Batch``; numbers, or scalars on the device.
        at: the stage's step, from 0, by which generators are seeded; None: they are already.
    """

    epoch: Any
    progress: Any
    at: int | None


class Updater:
    """Takes the steps of one stage.

    Args:
        job: what is trained.
        step: all that trains, frozen for the stage.
        call: ``step`` or what runs it: compiled, or averaging gradients over processes.
        teaching: gives the teachers' outputs.
        planned: the stage.
        follow: brings the student's average, if any, up to so many updates.
        moving: the buffers that a forward and backward change, which a step that is skipped is to leave alone.
        say: told why steps are not recorded, where they are asked to be.
    """

    def __init__(
        self,
        job: Job,
        step: Step,
        call: Any,
        teaching: Teaching,
        planned: Planned,
        follow: Callable[[int], None],
        moving: Places = (),
        say: Callable[[str], None] = lambda _: None,
    ):
        self.job, self.step, self.call, self.teaching, self.planned = job, step, call, teaching, planned
        self.follow, self.moving = follow, moving
        self.precision = step.precision
        optim, schedule = settings_of(planned.stage, job.optim, job.schedule)
        self.optimizer = build_optimizer(optim, step, recorded=job.train.graph == "auto")
        if self.precision.scaler.is_enabled():
            begin_momentum(self.optimizer)
        steps, budget = job.train_batches.steps, job.schedule.epochs or job.train.epochs
        self.schedule = build_schedule(schedule, self.optimizer, planned.scheduled, steps, budget)
        self.guard = Guard(job.train, self.optimizer, self.precision.scaler)
        self.trained = [p for p in step.parameters() if p.requires_grad]
        self.compiled = getattr(call, "module", call) is not step
        self.sharded = any(map(is_shard, self.trained))
        self.agreeing = agreeing(job, step.couples_samples)
        self.trains_student = "student" in planned.stage.trains
        self.writing = Writing(job, planned.stage, teaching, self.precision)
        if planned.stage.turns and world_size() > 1:
            raise InputError(
                f"stage {planned.stage.name!r} updates networks in turn, which several processes cannot do: run one, "
                "or let them be updated together."
            )

        self.graph = self._graph(say) if job.train.graph == "auto" else None

    def _graph(self, say: Callable[[str], None]) -> Graphed | None:
        problem = why_not(self.job, self.planned, self.guard.recordable, self.writing.writes)
        if problem:
            say(f"stage {self.planned.stage.name}: no CUDA graph of its steps (train.graph=auto), for {problem}")
            return None
        return Graphed(self.optimizer, self.step, say)

    def __call__(
        self, loaded: Loaded, epoch: int, at: int, updates: int, pieces: int, measure_norms: bool
    ) -> StepResult:
        """Take a step.

        Args:
            loaded: this process's part of the batch.
            epoch, at: the stage's epoch and step, from 0.
            updates: steps of the student so far, over all stages.
            pieces: micro-batches that the part is split into.
            measure_norms: find the norm of each term's gradient too, of the first micro-batch.
        """
        self.schedule.step_update(at)
        when = When(epoch, self.planned.progress(at, self.job.train_batches.steps), at)
        loaded = self.writing(self.step.student, loaded, at, when.progress)
        if self.graph is not None and pieces == 1 and not measure_norms:
            result = self._graphed(self.graph, loaded, when)
            if self.trains_student:
                self.follow(updates + 1)
            return result
        before = copy_buffers(self.moving) if self.guard.skips else []
        turns = range(len(self.planned.stage.turns))
        earlier: list[StepResult] = []
        for turn in turns[:-1]:
            self.step.turn = turn
            early, _ = self._change(loaded, when, pieces, measure_norms=False)
            if self.guard.skips and bool(early.bad):
                put_back(before)
                return early
            earlier = [*earlier, early]
        self.step.turn = turns[-1] if turns else None
        result, seen = self._change(loaded, when, pieces, measure_norms)
        self.step.turn = None
        for early in earlier:
            held = [each for each in (early.withheld, result.withheld) if each is not None]
            withheld = torch.stack(held).all() if held else None
            terms = {**early.terms, **result.terms}
            result = replace(result, terms=terms, bad=result.bad | early.bad, withheld=withheld)
        if self.guard.skips and bool(result.bad):
            put_back(before)
            return result
        if self.trains_student:
            self.follow(updates + 1)
        self._after(seen)
        return result

    def _after(self, seen: list[Batch]) -> None:
        if self.job.method is not None:
            with torch.no_grad():
                for batch in seen:
                    self.job.method.after_step(batch)

    def _graphed(self, graph: Graphed, loaded: Loaded, when: When) -> StepResult:
        """Take a step that is recorded, or about to be: what the host does of it is done here, before."""
        assert when.at is not None
        loaded = replace(loaded, inputs=cast(loaded.inputs, self.precision.dtype))
        replaying = self.teaching.replaying
        teachers = self.teaching(loaded) if replaying else None
        self._seed(when.at, 0)
        terms, bad = graph(self._taken, Given(loaded, *self._tensors(when, loaded), teachers))
        return StepResult(terms, bad)

    def _taken(self, given: Given) -> tuple[Terms, Tensor]:
        when = When(given.epoch, given.progress, None)
        result, seen = self._change(given.loaded, when, 1, measure_norms=False, teachers=given.teachers)
        self._after(seen)
        return result.terms, result.bad

    def _tensors(self, when: When, loaded: Loaded) -> tuple[Tensor, Tensor]:
        return as_tensors(when.epoch, when.progress, loaded.index, self.precision.dtype)

    def _change(
        self, loaded: Loaded, when: When, pieces: int, measure_norms: bool, teachers: list[Out] | None = None
    ) -> tuple[StepResult, list[Batch]]:
        """Update what the step's loss, or the present turn's, gives a gradient; return as ``_backward``."""
        result, seen = together(lambda: self._backward(loaded, when, pieces, measure_norms, teachers), self.agreeing)
        if self.agreeing or self.sharded:
            average_gradients([parameter for parameter in self.trained if not is_shard(parameter)])
        norm = None
        if self.job.train.clip_grad is not None:
            self.precision.scaler.unscale_(self.optimizer)
            norm = clip(self.trained, self.job.train.clip_grad)
        result.bad, result.withheld = self.guard.update(total(result.terms), self.trained, norm)
        self.optimizer.zero_grad(set_to_none=True)
        return result, seen

    def _backward(
        self, loaded: Loaded, when: When, pieces: int, measure_norms: bool, given: list[Out] | None
    ) -> tuple[StepResult, list[Batch]]:
        """Leave the whole batch's gradient on the parameters; return the terms and the batches that losses saw."""
        loaded = replace(loaded, inputs=cast(loaded.inputs, self.precision.dtype))
        pieces = min(pieces, loaded.samples)
        if pieces > 1 and self.step.couples_samples:
            return self._coupled(loaded, when, pieces)
        scaler, result, seen = self.precision.scaler, StepResult({}, _zero(loaded)), []
        parts, whole = loaded.split(pieces), Share.of(loaded, pieces)
        for micro, part in enumerate(parts):
            share, scale = whole.of_terms(part), whole.of_labels(part)
            teachers = self.teaching(part) if given is None else given
            if when.at is not None:
                self._seed(when.at, micro)
            measure = measure_norms and micro == 0
            # What is compiled runs backward only once.
            call = self.step if measure and world_size() == 1 else self.call
            place: Any = (when.epoch, when.progress)
            if self.compiled and call is self.call:
                place = self._tensors(when, part)
            with self._gradients_travel(micro == len(parts) - 1):
                rows = part.inputs, part.labels, part.index, teachers
                terms, batch = call(*rows, *place, scale, whole.of_taught(part), part.drawn or None)
                if measure and not self.sharded and (world_size() == 1 or self.job.train.compile == "off"):
                    apart = terms.first() if isinstance(terms, RowTerms) else terms
                    result.norms = gradient_norms(apart, self.step.student.parameters())
                terms = {name: share * term for name, term in terms.items()} if share != 1 else terms
                scaler.scale(total(terms)).backward()
            result.terms = {name: result.terms.get(name, 0.0) + term.detach() for name, term in terms.items()}
            seen.append(batch)
        return result, seen

    def _coupled(self, loaded: Loaded, when: When, pieces: int) -> tuple[StepResult, list[Batch]]:
        parts = loaded.split(pieces)
        taught = [self.teaching(part) for part in parts]

        def loss(student: Out, peers: list[Out]) -> tuple[Terms, Batch]:
            beside = student.logits.split([len(part.index) for part in parts])
            made = [[whole_out(out, own) for out in outs] for outs, own in zip(taught, beside, strict=True)]
            teachers = [join_outs(each) for each in zip(*made, strict=True)]
            terms, batch = self.step.losses(
                student, peers or teachers, loaded.labels, loaded.index, when.epoch, when.progress,
                taught=None if loaded.taught is None else Taught(loaded.taught), drawn=loaded.drawn,
            )  # fmt: skip
            return {name: self.precision.scaler.scale(term) for name, term in terms.items()}, batch

        inputs = [part.inputs for part in parts]
        scaled, batch = cached_backward(self.step, inputs, lambda micro: self._seed(when.at or 0, micro), loss)
        scale = self.precision.scaler.get_scale()
        return StepResult({name: term.detach() / scale for name, term in scaled.items()}, _zero(loaded)), [batch]

    def _seed(self, at: int, micro: int) -> None:
        seed_torch("step", self.job.train.seed, self.planned.stage.name, at, micro, rank())

    def _gradients_travel(self, last: bool) -> AbstractContextManager[object]:
        """Between processes gradients are averaged once a step: in the last micro-batch's backward.

        Not there, however, where all have to agree first that the step is not repeated.
        """
        no_sync = getattr(self.call, "no_sync", None)
        return nullcontext() if no_sync is None or (last and not self.agreeing) else no_sync()


def _zero(loaded: Loaded) -> Tensor:
    return torch.zeros((), device=loaded.index.device)
