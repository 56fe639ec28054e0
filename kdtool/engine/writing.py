"""Batches that the student writes itself, or the teacher, in the place of the given ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from kdtool.engine.credit import credit_of
from kdtool.engine.job import Beside, Job, Loaded, Writer
from kdtool.engine.plan import share_of
from kdtool.engine.precision import Precision
from kdtool.engine.teaching import Teaching
from kdtool.errors import InputError
from kdtool.method import Stage
from kdtool.randomness import uniforms


class Writing:
    """Decides, step by step, who writes the batch: a function of (seed, stage, step) and the method's state.

    Args:
        job: whose writer is asked, and whose seed counts.
        stage: says whether the teacher writes, and which share the student does, where the writer does not.
        teaching: has the teachers.
        precision: of the student's forward.

    Raises:
        InputError: the stage wants such batches, and the task writes none; or it wants both kinds.
    """

    def __init__(self, job: Job, stage: Stage, teaching: Teaching, precision: Precision):
        self.job, self.stage, self.teaching, self.precision = job, stage, teaching, precision
        self.given = None if job.writer is None else job.writer.share
        own = job.method is not None and bool(stage.on_policy if self.given is None else self.given)
        self.varies = own and self.given is None and callable(stage.on_policy)
        self.writes = own or stage.teacher_writes
        if job.writer is None and self.writes:
            who, so = "the teacher", ""
            if not stage.teacher_writes:
                who = "the student"
                so = ": choose another form of the method" if callable(stage.on_policy) else ": set its on_policy=0"
            raise InputError(f"stage {stage.name!r} learns from samples that {who} writes; this task writes none{so}.")
        if own and stage.teacher_writes:
            raise InputError(
                f"stage {stage.name!r} learns what the teacher writes, so the student cannot: leave on_policy out."
            )
        if own and stage.replay and stage.credit is not None:
            raise InputError(
                f"stage {stage.name!r} gives credit for what the student draws, which an earlier one drew where "
                "samples are kept (replay): leave one of them out."
            )

    def share(self) -> float:
        """Return which share of the batches the student writes, as it is now."""
        if self.job.method is None or self.stage.teacher_writes:
            return 0.0
        return share_of(self.stage) if self.given is None else self.given

    def sentence(self) -> str:
        """Return what the user is told of it; "": nothing is written by the student."""
        if not self.writes or self.stage.teacher_writes:
            return ""
        what = f"the student writes {self.share():.0%} of the batches, on which the teachers run live"
        return f"{what}; the share follows from validation" if self.varies else what

    def __call__(self, student: nn.Module, loaded: Loaded, step: int, progress: float) -> Loaded:
        """Return the batch as it is, or as somebody writes it.

        Args:
            student: the tapped network.
            loaded: this process's part of a batch.
            step: of the stage, from 0.
            progress: as in ``kdtool.method.Batch``.
        """
        writer, stage = self.job.writer, self.stage
        if writer is None or not self.writes:
            return loaded
        if stage.teacher_writes:
            teacher, precision = self.teaching.live.first(loaded.inputs)
            with torch.no_grad(), precision.forward():
                return writer.taught(teacher, loaded)
        number = float(uniforms(torch.tensor([step]), f"on policy, {stage.name}", self.job.train.seed, 0))
        share = self.share()
        if number >= share:  # the same on every process
            return loaded
        if stage.replay and writer.count >= stage.replay and number >= share * (1 - progress):
            return writer.again(loaded, stage.name, step)
        return self._written(writer, student, loaded, step)

    def _written(self, writer: Writer, student: nn.Module, loaded: Loaded, step: int) -> Loaded:
        stage = self.stage
        with torch.no_grad(), self.precision.forward():
            found = writer(student, loaded, stage.name, step, self._beside(loaded), stage.replay)
        if stage.credit is None:
            return found
        teachers = self.teaching(found)
        values = credit_of(
            stage.credit, student, teachers, found, self.precision, stage.teacher_mix, writer.temperature
        )
        return replace(found, drawn={**found.drawn, **values})

    def _beside(self, loaded: Loaded) -> Beside | None:
        if not self.stage.teacher_mix:
            return None
        teacher, precision = self.teaching.live.first(loaded.inputs)

        @contextmanager
        def context() -> Iterator[None]:
            with self.precision.loss(), precision.forward():  # not the student's autocast, which is around it
                yield

        return Beside(teacher, self.stage.teacher_mix, context)
