"""The contract between a task and the rest of kdtool.

A task is a plugin: a class registered under the entry-point group ``kdtool.tasks``. It brings data, networks, the hard
loss and the metrics; engine, methods, cache, checkpoints, comparisons and the page are shared. This is a whole run as a
task's author sees it::

    data = task.open(recipe)                          # splits, class names, a fingerprint
    student = task.student(recipe, data)              # networks and where they came from
    teachers = task.teachers(recipe, data, online)
    nets = student.tapped(taps), task.adapt(teacher.tapped(taps), teacher, student)
    batches = task.batches(data, split, recipe, [student, *teachers], reading)
    objective = task.objective(data, label_smoothing) # hard loss, meter, and what epochs are selected by
    engine: rows = network(batch.inputs); method's loss + objective.hard_loss; meter.add(logits, labels, index)
    task.save(folder, student, state, data, recipe)   # student/, which opens without kdtool

The engine never looks inside a batch's inputs: they are a tree of tensors (see ``kdtool.engine.tree``) that the task
made and its networks read. What a network gives are *rows*, which a loss sees one by one: one a sample for images and
sentences, one a supervised token for language.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from kdtool.events import Metric
from kdtool.recipe import schema
from kdtool.tasks.offers import Offers
from kdtool.tasks.offers import Say as Say
from kdtool.tasks.profiled import Profiled as Profiled
from kdtool.tasks.specimens import Specimens as Specimens

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

    from kdtool.engine.job import Batches, Objective, Writer
    from kdtool.method import Method, TapSpec
    from kdtool.recipe.schema import Recipe
    from kdtool.tasks.common.data_report import DataReport


class Split(Protocol):
    """Some samples of a data set.

    Attributes:
        labels: (rows,) int64 class of each row, -1 for none.
    """

    @property
    def labels(self) -> np.ndarray: ...

    def __len__(self) -> int:
        """How many samples."""
        ...

    def take(self, positions: np.ndarray) -> Split:
        """Return the samples at these positions."""
        ...

    def digest(self) -> str:
        """Return a digest of which of the data set's samples these are, in order."""
        ...


class Dataset(Protocol):
    """What ``data`` of a recipe names, opened.

    Attributes:
        name: as messages call it.
        class_names: in the order of the labels: K of them.
        train, val, test: what teachers are trained on, epochs are selected by (None: nothing is held out), and what is
            looked at once, at the end.
        fingerprint: digest of all that decides samples, labels and splits.
        stream: the training set where it passes by instead of being held, with a length; else None.
        notes: sentences for the user, all there when the transfer set was made.
    """

    name: str
    class_names: Sequence[str]
    fingerprint: str
    notes: Sequence[str]

    @property
    def train(self) -> Any: ...
    @property
    def val(self) -> Any: ...
    @property
    def test(self) -> Any: ...
    @property
    def stream(self) -> Any: ...

    def list_faults(self, folder: Path) -> None:
        """List in a run's folder, from now on, the samples that cannot be read."""
        ...

    def faults(self) -> str | None:
        """Return a sentence on the samples that could not be read so far, None without any."""
        ...


@dataclass
class Built:
    """A network and where it came from; a task adds what its inputs need.

    Attributes:
        module: the plain network, on the CPU. Its state dict is what ships.
        name: the resolved name.
        origin: "pretrained", "scratch" or "file:<path>".
        num_classes: K.
        notes: sentences for the user.
        warnings: those that may spoil the result, such as on weights that could not be had.
        model_args: what its constructor got besides the class count.
        needs_training: it starts from scratch or has a new head, so it knows nothing about the data's classes.
        weights_id: "scratch", or a digest of the weights that it starts from.
        source_hash: sha256 of the user's own architecture file, else None.
        replaced: layers in the place of the architecture's own, see ``kdtool.tasks.common.replaced``; saved as well.
        apart: a teacher whose rows and classes are other ones than the student's: it is measured on batches of its own,
            and what it reaches there is not to be compared with what the student does.
    """

    module: nn.Module
    name: str
    origin: str
    num_classes: int = field(kw_only=True)
    notes: list[str] = field(default_factory=list, kw_only=True)
    warnings: list[str] = field(default_factory=list, kw_only=True)
    model_args: dict[str, Any] = field(default_factory=dict, kw_only=True)
    needs_training: bool = field(default=True, kw_only=True)
    weights_id: str = field(default="scratch", kw_only=True)
    source_hash: str | None = field(default=None, kw_only=True)
    replaced: dict[str, str] = field(default_factory=dict, kw_only=True)
    apart: bool = field(default=False, kw_only=True)

    input_keys: ClassVar[tuple[str, ...]] = ()
    """Which entries of ``identity`` say what its inputs are."""

    def tapped(self, taps: TapSpec | None = None) -> Any:
        """Return the network with taps: an ``nn.Module`` whose forward maps inputs to (logits, taps by role).

        Sequences with padding come with a mask: (logits, taps, mask), see ``kdtool.method.Out``. The module has
        ``module`` (the plain network), ``roles`` (by role the names of its layers), ``single`` (the roles that tap one
        layer, not a list), ``shapes()`` (by role the shape without the batch, measured by a dry forward) and, where
        some of its parameters are never to be trained, their names ``fixed``.
        """
        raise NotImplementedError

    def dry_inputs(self, count: int) -> Any:
        """Return inputs of ``count`` samples that the network takes, fixed noise of its own type."""
        raise NotImplementedError

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of one sample's forward."""
        from kdtool.tasks.common.cost import macs  # torch, which reading a recipe does without

        return macs(self.tapped(), self.dry_inputs(1))

    def dry_input(self) -> str:
        """Return how large a sample of ``dry_inputs`` is, for people: "32x32", "12 tokens"; "": all are alike."""
        return ""

    def identity(self) -> dict[str, Any]:
        """Return what its outputs follow from besides weights and inputs: architecture, arguments, its own inputs."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Return what tables show of its inputs, such as {"image_size": 32}."""
        return {}


@dataclass(frozen=True)
class Reading:
    """How a split is read.

    Attributes:
        batch_size: samples in a global batch.
        seed: of the order.
        device: where batches go.
        train: shuffled, random views and whole batches only; else in order, evaluation's view, all samples.
        part: (r, n): what process r of n reads.
        steps: of an epoch, where the training set is a stream; else None.
        channels_last: memory layout of what has channels.
        views: further views of each sample beside the usual one, by the names of ``Task.views``; see
            ``kdtool.tasks.common.side_by_side``.
    """

    batch_size: int
    seed: int
    device: torch.device
    train: bool
    part: tuple[int, int] = (0, 1)
    steps: int | None = None
    channels_last: bool = True
    views: Sequence[str] = ()


class Task(Offers):
    """Base of every task: what each has; what one may have beside it is in ``Offers``.

    Class attributes:
        api: the contract version it was written for; the registry refuses another.
        name: what ``--task`` takes, the same as the entry point's.
        unit: what its samples are called, in the plural.
        headline: the metric that epochs are selected by.
        Data, Teacher, Student: its sections of the recipe, dataclasses of ``kdtool.option`` on those of
            ``kdtool.recipe.schema``.
        ships_layers: a student may ship with other layers: ``student`` and ``save`` know ``Built.replaced``.
        streams: which data can be streamed (``train.steps``), in words for messages; "": none can.
        views: further views of a sample that a method may ask for, by name, each with a sentence.
        method_defaults: its say in the methods' defaults: values by an option's name, for every method that has it.
    """

    api: ClassVar[int]
    name: ClassVar[str]
    unit: ClassVar[str] = "samples"
    headline: ClassVar[Metric] = Metric()
    Data: ClassVar[type[schema.Data]] = schema.Data
    Teacher: ClassVar[type[schema.Teacher]] = schema.Teacher
    Student: ClassVar[type[schema.Student]] = schema.Student
    ships_layers: ClassVar[bool] = False
    streams: ClassVar[str] = ""
    views: ClassVar[Mapping[str, str]] = {}
    method_defaults: ClassVar[Mapping[str, Any]] = {}

    def check(self, recipe: Recipe, methods: Mapping[str, type[Method]]) -> None:
        """Refuse what one key's type and range cannot say.

        Raises:
            InputError: naming the key, what was given and what is valid.
        """

    def streamed(self, name: str) -> bool:
        """Return whether the data of this name (``data.name``) can be streamed, as ``streams`` says."""
        return False

    def open(self, recipe: Recipe) -> Any:
        """Return the ``Dataset`` that ``recipe.data`` names.

        Raises:
            InputError: it is not there, is empty, or needs a package that is missing.
        """
        raise NotImplementedError

    def look(self, data: Any, recipe: Recipe) -> DataReport | None:
        """Return what a run tells of its data before it trains; None: no more than ``data.notes``.

        Raises:
            InputError: nothing can be learnt from them.
        """
        return None

    def transfer_set(self, data: Any, recipe: Recipe) -> Any:
        """Return the split that the student is trained on: ``data.train`` thinned, and unlabelled samples added."""
        return data.train

    def student(self, recipe: Recipe, data: Any) -> Built:
        """Return the student with its first weights, a function of ``train.seed``."""
        raise NotImplementedError

    def teachers(self, recipe: Recipe, data: Any, online: bool) -> list[Built]:
        """Return the teachers in order; first weights follow their own seed, an online method's peers' the run's."""
        raise NotImplementedError

    def adapt(self, network: Any, teacher: Built, student: Built) -> Any:
        """Return a teacher's tapped network as one that takes the student's inputs; its ``network`` is the given one.

        The result has ``module`` and ``network``, and its forward is as that of ``Built.tapped``.
        """
        raise NotImplementedError

    def dry_inputs(self, networks: Sequence[Built], count: int) -> Any:
        """Return noise as ``batches`` has samples: for the first of ``networks``, with what the others need besides."""
        return networks[0].dry_inputs(count)

    def batches(self, data: Any, split: Any, recipe: Recipe, networks: Sequence[Built], reading: Reading) -> Batches:
        """Return a split in batches; the same samples whatever the workers.

        Besides the engine's ``Batches``, those of a held training set have, for the cache, ``view(view, batches)``,
        which yields samples by their positions; ``decides``, what inputs follow from besides samples and view, by the
        recipe's names; and ``lengths``, the samples' (N,), or None: see ``kdtool.tasks.common.held.HeldBatches``.

        The inputs are made for the first of ``networks``, and hold what the others (adapted teachers) need besides.
        """
        raise NotImplementedError

    def kinds(self, data: Any, split: Any) -> Mapping[str, Tensor]:
        """Return what the data tell of a training split's rows, see ``kdtool.method.Setup.kinds``. Default: nothing."""
        return {}

    def objective(self, data: Any, label_smoothing: float) -> Objective:
        """Return what is learnt: the hard loss, the meter and the metric that epochs are selected by."""
        raise NotImplementedError

    def writer(self, data: Any, recipe: Recipe, student: Built) -> Writer | None:
        """Return what lets the student write samples to learn from; None: the task has no such thing."""
        return None

    def versions(self, what: str) -> dict[str, str]:
        """Return the versions of the libraries, besides torch's, that decide ``what``.

        It is "teacher" (the weights that a training gives) or "outputs" (a ready teacher's), as for recipe keys.
        """
        return {}

    def load(self, built: Built, folder: Path) -> None:
        """Give a network the weights that ``save`` wrote into a folder."""
        from safetensors.torch import load_file

        built.module.load_state_dict(load_file(folder / "model.safetensors"))

    def save(self, folder: Path, built: Built, state: Mapping[str, Tensor], data: Any, recipe: Recipe) -> Path:
        """Write a network so that it opens without kdtool, as ``model.safetensors`` and what belongs beside it.

        Equal inputs give equal bytes; each file is written aside and renamed. Returns the weights' path.

        Raises:
            RunError: it cannot be written.
        """
        raise NotImplementedError

    def how_to_open(self, built: Built, folder: Path) -> str:
        """Return the line of Python that opens what ``save`` wrote."""
        raise NotImplementedError
