"""What one training needs, and what comes out. The engine never looks inside the inputs: a task owns them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kdtool.method import Method, Out
from kdtool.recipe.schema import Checkpoint, Optim, Schedule, Train


class Loaded(Protocol):
    """A batch on the device: inputs, labels as in ``Batch``, (B,) positions in the training set, and which view."""

    inputs: Tensor
    labels: Tensor
    index: Tensor
    view: int


class Batches(Protocol):
    """A split in batches; which samples form a batch is a function of the epoch."""

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        ...

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """Yield the batches of an epoch from batch ``start`` on."""
        ...


class Replay(Protocol):
    """Teachers' outputs from a cache.

    Attributes:
        roles: for each teacher the taps' roles that the cache gives; logits it always gives.
    """

    roles: Sequence[frozenset[str]]

    def outputs(self, index: Tensor, view: int) -> list[Out]:
        """Return each teacher's outputs for (B,) positions in the training set, on their device."""
        ...


class Task(Protocol):
    """What is learnt: the hard-label loss and the metrics."""

    num_classes: int

    def hard_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss over labelled samples, a scalar; zero where none is labelled."""
        ...

    def metrics(self, logits: Tensor, labels: Tensor) -> dict[str, Any]:
        """Return the metrics of a whole split by name; "top1" is what epochs are selected by."""
        ...


@dataclass
class Job:
    """One training: of a teacher, a baseline or a student.

    Attributes:
        phase: shown to people ("teacher resnet50", "baseline", "student").
        student: the tapped network that trains.
        teachers: frozen tapped networks that take the same inputs.
        peers: tapped networks that train too (online methods).
        replay: the frozen teachers' outputs from a cache, where there is one.
        teacher_precisions: arithmetic of each frozen teacher, as ``train.precision``; empty: the student's.
        sync_bn: the student's batch norms see the samples of all processes.
        method: None trains on hard labels only.
        folder: where checkpoints and metrics.jsonl go.
        resume_command: printed when a signal stops the run.
        key: digests of all that decides the result, as "name=digest" with spaces between, or one digest; a checkpoint
            with another one is refused.
        accept_changes: go on from a checkpoint with another key.
    """

    phase: str
    student: nn.Module
    task: Task
    train_batches: Batches
    val_batches: Batches | None
    train: Train
    optim: Optim
    schedule: Schedule
    checkpoint: Checkpoint
    folder: Path
    device: torch.device
    key: str
    resume_command: str
    method: Method | None = None
    teachers: Sequence[nn.Module] = field(default_factory=list)
    peers: Sequence[nn.Module] = field(default_factory=list)
    replay: Replay | None = None
    teacher_precisions: Sequence[str] = ()
    accept_changes: bool = False
    sync_bn: bool = False


@dataclass
class Fitted:
    """A finished training.

    Attributes:
        state: the selected weights of the plain network (the averaged ones when EMA is on), on the CPU.
        last_state: those of the last epoch.
        best, last: {"epoch": from 1 over all stages, "val": metrics or None}.
        seconds: time spent training in this process.
        steps: optimizer steps of the student, all stages.
    """

    state: dict[str, Tensor]
    last_state: dict[str, Tensor]
    best: dict[str, Any]
    last: dict[str, Any]
    seconds: float
    steps: int
