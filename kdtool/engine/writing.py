"""Batches that the student writes itself, or the teacher, in the place of the given ones."""

from __future__ import annotations

import torch
from torch import nn

from kdtool.engine.job import Job, Loaded
from kdtool.engine.precision import Precision
from kdtool.engine.teaching import Teaching
from kdtool.errors import InputError
from kdtool.method import Stage
from kdtool.randomness import uniforms


class Writing:
    """Decides, step by step, who writes the batch: a function of (seed, stage, step).

    Args:
        job: whose writer is asked, and whose seed counts.
        stage: says whether the teacher writes, and which share the student does, where the writer does not.
        teaching: has the teachers.
        precision: of the student's forward.

    Raises:
        InputError: the stage wants such batches, and the task writes none; or it wants both kinds.
    """

    def __init__(self, job: Job, stage: Stage, teaching: Teaching, precision: Precision):
        asked = None if job.writer is None else job.writer.share
        self.share = (stage.on_policy if asked is None else asked) if job.method is not None else 0.0
        self.job, self.stage, self.teaching, self.precision = job, stage, teaching, precision
        if job.writer is None and (self.share or stage.teacher_writes):
            who, so = ("the teacher", "") if stage.teacher_writes else ("the student", ": set the method's on_policy=0")
            raise InputError(f"stage {stage.name!r} learns from samples that {who} writes; this task writes none{so}.")
        if self.share and stage.teacher_writes:
            raise InputError(
                f"stage {stage.name!r} learns what the teacher writes, so the student cannot: leave on_policy out."
            )

    def __call__(self, student: nn.Module, loaded: Loaded, step: int) -> Loaded:
        """Return the batch as it is, or as somebody writes it.

        Args:
            student: the tapped network.
            loaded: this process's part of a batch.
            step: of the stage, from 0.
        """
        writer = self.job.writer
        if writer is None or not (self.share or self.stage.teacher_writes):
            return loaded
        if self.stage.teacher_writes:
            teacher, precision = self.teaching.live.first(loaded.inputs)
            with torch.no_grad(), precision.forward():
                return writer.taught(teacher, loaded)
        number = torch.tensor([step])  # the same on every process
        if float(uniforms(number, f"on policy, {self.stage.name}", self.job.train.seed, 0)) >= self.share:
            return loaded
        with torch.no_grad(), self.precision.forward():
            return writer(student, loaded, self.stage.name, step)
