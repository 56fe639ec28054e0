"""Batches that the student writes itself, in the place of some of the given ones."""

from __future__ import annotations

import torch
from torch import nn

from kdtool.engine.job import Job, Loaded
from kdtool.engine.precision import Precision
from kdtool.errors import InputError
from kdtool.method import Stage
from kdtool.randomness import uniforms


class OnPolicy:
    """Decides, step by step, whether the student writes the batch: a function of (seed, stage, step).

    Args:
        job: whose writer is asked, and whose seed counts.
        stage: says which share of the batches, where the writer does not.
        precision: of the student's forward.

    Raises:
        InputError: the stage wants such batches, and the task writes none.
    """

    def __init__(self, job: Job, stage: Stage, precision: Precision):
        asked = None if job.writer is None else job.writer.share
        self.share = (stage.on_policy if asked is None else asked) if job.method is not None else 0.0
        self.job, self.stage, self.precision = job, stage, precision
        if self.share and job.writer is None:
            raise InputError(
                f"stage {stage.name!r} learns from samples that the student writes, and this task writes none: "
                "set the method's on_policy=0."
            )

    def __call__(self, student: nn.Module, loaded: Loaded, step: int) -> Loaded:
        """Return the batch as it is, or as the student writes it.

        Args:
            student: the tapped network.
            loaded: this process's part of a batch.
            step: of the stage, from 0.
        """
        if not self.share or self.job.writer is None:
            return loaded
        number = torch.tensor([step])  # the same on every process
        if float(uniforms(number, f"on policy, {self.stage.name}", self.job.train.seed, 0)) >= self.share:
            return loaded
        with torch.no_grad(), self.precision.forward():
            return self.job.writer(student, loaded, self.stage.name, step)
