"""What one training needs, and what comes out. The engine never looks inside the inputs: a task owns them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from kdtool.engine import tree
from kdtool.events import Metric
from kdtool.method import Method, Out
from kdtool.recipe.rates import Optim, Schedule
from kdtool.recipe.schema import Checkpoint, Train

OWN = -1
"""The view of samples that a network wrote in place of the given ones: no cache knows them."""


@dataclass
class Loaded:
    """A batch on the device.

    Attributes:
        inputs: a tree of tensors, see ``kdtool.engine.tree``.
        labels: (R,) int64 class of each row, -1 for none; or (R, K) float where samples are mixed.
        index: (R,) int64 row in the split.
        view: which view of the samples the inputs are, or ``OWN``.
        rows: how many rows each sample has; None: one.
        positions: the index once more, on the CPU: from there the host reads it without waiting for the device. None:
            whoever made the batch had it on the device alone.
        taught: (R,) bool, the rows that the teachers speak of; None: all.
        drawn: as in ``kdtool.method.Batch``.
    """

    inputs: Any
    labels: Tensor
    index: Tensor
    view: int
    rows: Sequence[int] | None = None
    positions: Tensor | None = None
    taught: Tensor | None = None
    drawn: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """How many samples it holds."""
        return len(self.index) if self.rows is None else len(self.rows)

    def split(self, pieces: int) -> list[Loaded]:
        """Return it in so many parts of whole samples, as equal as ``torch.chunk`` makes them."""
        size = -(-self.samples // pieces)
        return self.parts([min(size, self.samples - start) for start in range(0, self.samples, size)])

    def first(self, count: int) -> Loaded:
        """Return its first samples."""
        return self if count >= self.samples else self.parts([count, self.samples - count])[0]

    def parts(self, sizes: Sequence[int]) -> list[Loaded]:
        """Return it in parts of so many samples."""
        if self.rows is None:
            own: list[Sequence[int] | None] = [None] * len(sizes)
            counts = list(sizes)
        else:
            ends = list(accumulate(sizes))
            own = [self.rows[end - size : end] for end, size in zip(ends, sizes, strict=True)]
            counts = [sum(each) for each in own if each is not None]
        at, taught = (
            [None] * len(sizes) if each is None else each.split(counts) for each in (self.positions, self.taught)
        )
        cut = {name: values.split(counts) for name, values in self.drawn.items()}
        drawn = [{name: values[number] for name, values in cut.items()} for number in range(len(sizes))]
        inputs, labels, index = tree.split(self.inputs, sizes), self.labels.split(counts), self.index.split(counts)
        columns = inputs, labels, index, [self.view] * len(sizes), own, at, taught, drawn
        return [Loaded(*each) for each in zip(*columns, strict=True)]


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

    def outputs(self, index: Tensor, view: int, positions: Tensor | None = None) -> list[Out]:
        """Return each teacher's outputs, on their device.

        Args:
            index: (R,) rows of the training set.
            view: which view of the samples.
            positions: the index on the CPU, as ``Loaded`` has it; None: the host may have to wait for the index.
        """
        ...


@dataclass(frozen=True)
class Beside:
    """A frozen teacher that has a say in what the student writes.

    Attributes:
        teacher: its adapted network, ready.
        share: of it in the distribution that each class is drawn from, in (0, 1].
        context: gives what its forward runs under.
    """

    teacher: nn.Module
    share: float
    context: Callable[[], AbstractContextManager[object]]


class Writer(Protocol):
    """Puts samples that a network writes in the place of a batch's, for the method to compare it on (see ``Stage``).

    Attributes:
        share: of the batches, in every stage that has teachers; None: as each stage says.
        temperature: at which the student's are drawn, and the mixture with a teacher.
    """

    share: float | None
    temperature: float

    @property
    def count(self) -> int:
        """How many samples are kept."""
        ...

    def __call__(
        self, network: nn.Module, loaded: Loaded, stage: str, step: int, beside: Beside | None = None, keep: int = 0
    ) -> Loaded:
        """Return a batch of the view ``OWN``, a function of the networks, the batch, ``train.seed``, stage and step.

        Its rows have no label, as index the first of their sample's, and "class" in ``drawn``.

        Args:
            network: the student's.
            loaded: this process's part of a batch.
            stage, step: of the run.
            beside: a teacher that has a say.
            keep: how many of all processes' samples are kept, the newest; 0: none.
        """
        ...

    def again(self, loaded: Loaded, stage: str, step: int) -> Loaded:
        """Return a batch like it of samples that were kept, drawn by ``train.seed``, stage and step."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what is kept, for a checkpoint."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep what another one kept."""
        ...

    def taught(self, teacher: nn.Module, loaded: Loaded) -> Loaded:
        """Return a batch of the view ``OWN`` with what a frozen teacher writes, its rows' labels."""
        ...


@dataclass(frozen=True)
class Scores:
    """What the rows of a split add to a metric, which is their "mean", or the "exp" of it.

    Attributes:
        index: (R,) int64 numbers of the rows.
        values: (R,) float64, 0 or 1 for misses and hits.
        figure: "mean" or "exp".
    """

    index: Tensor
    values: Tensor
    figure: str = "mean"


class Meter(Protocol):
    """Turns rows into a split's metrics; it holds no more of them than the metrics need."""

    def add(self, logits: Tensor, labels: Tensor, index: Tensor) -> None:
        """Take the (R, K) logits, (R,) labels and (R,) numbers of some rows."""
        ...

    def state(self) -> Any:
        """Return what was added as plain values or CPU tensors, for another process."""
        ...

    def merge(self, states: Sequence[Any]) -> None:
        """Replace what was added by what all processes added, this one's own included."""
        ...

    def metrics(self) -> dict[str, Any]:
        """Return the metrics by name."""
        ...


@runtime_checkable
class RowMeter(Meter, Protocol):
    """A meter that knows what each row adds, so that two networks can be compared on the same samples."""

    def scores(self, key: str) -> Scores | None:
        """Return what the rows add to the metric of this name; None where it is no function of a mean."""
        ...


@runtime_checkable
class Weighable(Protocol):
    """An objective whose classes may count alike, however many samples each has."""

    def weigh(self, labels: Tensor) -> None:
        """Weigh the hard-label loss by the (N,) labels of the training samples, -1 for none."""
        ...


class Objective(Protocol):
    """What is learnt: the hard loss, the metrics, and by which of them epochs are selected.

    Attributes:
        num_classes: K.
        metric: what epochs are selected by.
        chance: what guessing gives for it; None where there is no such thing.

    One whose rows have several classes has ``targets`` "multi"; see ``kdtool.method.Method``.
    """

    num_classes: int
    metric: Metric
    chance: float | None

    def hard_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss over labelled rows, a scalar; zero where none is labelled."""
        ...

    def meter(self) -> Meter:
        """Return a new meter."""
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
        shard: the processes divide the student and the peers among themselves, see ``kdtool.engine.shards``.
        method: None trains on hard labels only.
        ship: returns the tapped network that is validated and whose weights are kept, sharing its tensors with what
            trains; called once all is on the device. None: it is the student.
        folder: where checkpoints and metrics.jsonl go.
        resume_command: printed when a signal stops the run.
        key: digests of all that decides the result, as "name=digest" with spaces between, or one digest; a checkpoint
            with another one is refused.
        writer: lets the student write samples; None: it never does.
        accept_changes: go on from a checkpoint with another key.
    """

    phase: str
    student: nn.Module
    objective: Objective
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
    ship: Callable[[], nn.Module] | None = None
    teachers: Sequence[nn.Module] = field(default_factory=list)
    peers: Sequence[nn.Module] = field(default_factory=list)
    replay: Replay | None = None
    teacher_precisions: Sequence[str] = ()
    writer: Writer | None = None
    accept_changes: bool = False
    sync_bn: bool = False
    shard: bool = False


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
