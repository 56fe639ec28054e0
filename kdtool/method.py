"""The contract between a distillation method and the engine.

A method is a plugin: a class registered under the entry-point group ``kdtool.methods``. This is the whole engine
as a method's author sees it::

    for stage in method.stages():
        freeze all but stage.trains      # what gets no gradient is frozen too, batch-norm statistics included
        for epoch, batch:
            teachers' outputs: live without gradient, replayed from a cache, or peers with gradient
            terms = stage.loss(batch)
            total = sum(terms) + stage.task_weight * task_loss(student logits)
            backward, clip, optimizer, schedule, EMA
            method.after_step(batch)
        method.after_validation(metrics)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

Terms = dict[str, Tensor]


class Method(nn.Module):
    """Base of every distillation method. Trainable extras are simply submodules.

    Class attributes that a method declares:
        api: the contract version it was written for; the registry refuses another.
        paper, year, url, equation: shown by ``kdtool show`` and ``kdtool list-methods``.
        knowledge: "response", "feature" or "relation".
        teachers: smallest and largest number of teachers; (0, 0) self-distillation, (1, None) any number.
        online: True when the "teachers" are peers that train too.
        batch: "global" when its terms couple samples (relations, memory banks), else "sample".
        hard_labels: True when it needs one class a sample, so that mixing is refused.
        targets: what it takes logits for: "single", one class of all, by a softmax; "multi", several, each by a
            sigmoid. A method that reads neither logits nor labels takes both without saying so.
        any_classes: True when its loss takes teachers of other classes, in other number: logits (B, K') beside the
            student's (B, K), such as another vocabulary's tokens.
    """

    api: ClassVar[int]
    paper: ClassVar[str] = ""
    year: ClassVar[int] = 0
    url: ClassVar[str] = ""
    equation: ClassVar[str] = ""
    knowledge: ClassVar[str] = "response"
    teachers: ClassVar[tuple[int, int | None]] = (1, 1)
    online: ClassVar[bool] = False
    batch: ClassVar[str] = "sample"
    hard_labels: ClassVar[bool] = False
    targets: ClassVar[frozenset[str]] = frozenset({"single"})
    any_classes: ClassVar[bool] = False

    @dataclass
    class Config:
        """Options, each declared with ``kdtool.option(default, help, ...)``."""

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__()
        self.cfg = cfg
        self.setup = setup

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        """Return the layers to read, before any network exists. Default: logits only."""
        return Taps()

    def loss(self, batch: Batch) -> Terms:
        """Return the weighted distillation terms of one batch by name, never the hard-label loss itself."""
        raise NotImplementedError

    def stages(self) -> list[Stage]:
        """Return the stages in order. Default: one, "distill"."""
        return [Stage("distill", self.loss)]

    @torch.no_grad()
    def after_step(self, batch: Batch) -> None:
        """Update state that gradients do not train, such as memory banks. Default: nothing."""

    def after_validation(self, metrics: Mapping[str, Any]) -> None:
        """Update such state by how the student does on samples that were held out. Default: nothing.

        Called after each epoch that is validated, and before the first step of a stage whose ``on_policy`` is asked.

        Args:
            metrics: by name, as the task measures them.
        """

    # --- what few methods need --------------------------------------------------------------------------------------

    @classmethod
    def views(cls, cfg: Any) -> Sequence[str]:
        """Return the further views of each sample to see side by side, by the task's names. Default: none.

        They are functions of (``data.view_seed``, view, sample); hard labels are learnt from the usual view.
        """
        return ()

    def ships(self, student: nn.Module) -> nn.Module:
        """Return what ``student/`` holds and what is validated. Default: the student.

        Called once, before the first step.

        Args:
            student: a copy of the plain network that shares its tensors, so that it learns along. Layers may be put in
                the place of its own (see ``Own.name``): layers of torch.nn, such as the method's trained parts and
                copies of a teacher's.
        """
        return student

    def predictions(self, student: Out) -> Mapping[str, Tensor]:
        """Return further logits by name, each as large as the student's, to be measured as those are. Default: none.

        They are measured on the validation and the test split, of the networks as the last step left them; exits are
        an example. They do not ship, and no epoch is selected by them.
        """
        return {}

    def remarks(self) -> list[str]:
        """Return sentences that the user should read before the run, such as on a term that cannot be other than 0."""
        return []

    @classmethod
    def scheme(cls) -> str:
        """Return "online", "self" or "offline", from what the class declares."""
        if cls.online:
            return "online"
        return "self" if cls.teachers[1] == 0 else "offline"


# --- what it is given -----------------------------------------------------------------------------------------------


@dataclass
class Batch:
    """One step's outputs, as the loss sees them.

    Attributes:
        labels: (B,) int64, -1 for samples without a label; or (B, K) when samples are mixed (a row of zeros: none).
        index: (B,) int64 position of each sample in the training set.
        student: the student's outputs, with gradient.
        teachers: the teachers' outputs, detached (but for a tapped ``"input"``); for online methods the peers', with
            gradient.
        task_loss: the task's own loss of (B, K) logits against this batch's labels, a scalar; for exits and peers.
        epoch: epoch within the stage, from 0.
        progress: share of the stage done, in [0, 1). Where the step is compiled both are 0-dim tensors, so that it is
            compiled once: ``kdtool.losses.within_one`` takes either, functions of ``math`` do not.
        drawn: of samples that the student wrote, by name a (B,) value of each row: "class" (int64, the one that was
            drawn, -1 where the row was given), and what ``Stage.credit`` returned. Empty for given samples.
    """

    labels: Tensor
    index: Tensor
    student: Out
    teachers: list[Out]
    task_loss: Callable[[Tensor], Tensor]
    epoch: int = 0
    progress: float = 0.0
    drawn: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass
class Out:
    """What a network gave for a batch.

    Attributes:
        logits: (B, K), at least fp32.
        taps: per role a tensor (B, *shape).
        mask: (B, N) bool, the real ones among N tokens of sequence taps (B, N, D), whose padding is zero; None where
            all are real. A teacher's tokens are the student's, whatever its own tokenizer makes of the text.
        views: by name what the network gave for further views of the same samples, those of ``Method.views``.
    """

    logits: Tensor
    taps: dict[str, Any] = field(default_factory=dict)
    mask: Tensor | None = None
    views: Mapping[str, Out] = field(default_factory=dict)


# --- what it reads, and when ----------------------------------------------------------------------------------------

Layer = int | float | str
"""Where to tap a network.

``int``: feature stage, -1 the deepest; ``float`` in [0, 1]: relative depth, 0.5 the middle stage; ``str``:

- ``"embedding"``: pooled, before the classifier;
- ``"heads"``: what each classifier gives, two where there is a distillation token;
- ``"input"``: the student's inputs, for the teachers too; a loss may differentiate their logits by it;
- a dotted module name, with ``:in`` for its input;
- a stage or depth with ``:pre`` (``"0.5:pre"``): its feature before the activation, which may be the stage's last step
  or, behind a norm, the next block's first; the feature itself where no activation follows.
"""

TapSpec = Mapping[str, "Layer | Sequence[Layer]"]
Shape = tuple[int, ...]
"""A tap's shape without the batch: (C, H, W) for maps, (D,) for embeddings, (N, D) for tokens, (H, K) for heads."""


@dataclass(frozen=True)
class Taps:
    """Which layers a method reads on either side, by role.

    Whatever is said per role (shapes, features, parts) is a list where the role taps a list of layers.
    """

    student: TapSpec = field(default_factory=dict)
    teacher: TapSpec = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """A part of the run with its own loss and trainable parts.

    Attributes:
        name: shown in the live view and in the logs.
        loss: batch -> weighted scalar terms by name.
        epochs: int: that many; float in (0, 1): that share of ``train.epochs``; None: what the others leave.
            Stages that train the student count against ``train.epochs``; others come on top.
        trains: any of "student" and "method" (the method's own parameters, and the peers of an online method).
        task_weight: weight of the hard-label loss that the engine adds; 0 leaves the classifier untouched.
        on_top: its epochs come on top of ``train.epochs`` though it trains the student.
        lr: its peak learning rate; None: ``optim.lr``.
        schedule: name of its learning-rate schedule; None: ``schedule.name``. Every stage runs through the whole
            schedule: milestones and periods, which count epochs of ``train.epochs``, shrink with its length.
        on_policy: share of the batches whose answers the student writes itself, in [0, 1], where the recipe does not
            say another (``data.on_policy``). A row of such a batch has no label. Tasks that write nothing refuse it.
            Or what returns it, asked at every step: a function of the method's parameters and buffers alone.
        teacher_mix: share of the first teacher in the distribution that each token of these answers is drawn from.
        replay: how many samples that the student wrote are kept. Once there are so many, batches are drawn from them in
            place of new ones: none of those that the student writes as the stage begins, all as it ends.
        credit: looks at the answers of such a batch as a whole, without gradient, before the loss sees them by row (a
            part of the batch, or of a sample, at a time), and returns by name the (B,) values that the loss needs of
            each row: they are ``Batch.drawn``. Not beside ``replay``, whose answers another student wrote.
        teacher_writes: the first teacher writes all answers, once, and they are the labels; ``Batch.teachers`` is
            empty. Not beside other methods.
        turns: losses that are taken in turn instead, each with a forward and an update of its own: what one gives no
            gradient stays as it is. The hard labels join the last. ``loss`` then shows what trains, and is reported
            where nothing is updated. In one process only.
    """

    name: str
    loss: Callable[[Batch], Terms]
    epochs: int | float | None = None
    trains: tuple[str, ...] = ("student", "method")
    task_weight: float = 1.0
    on_top: bool = False
    lr: float | None = None
    schedule: str | None = None
    on_policy: float | Callable[[], float] = 0.0
    teacher_mix: float = 0.0
    replay: int = 0
    credit: Callable[[Drawn], Mapping[str, Tensor]] | None = None
    teacher_writes: bool = False
    turns: tuple[Callable[[Batch], Terms], ...] = ()


@dataclass(frozen=True)
class Drawn:
    """The answers of a batch that the student wrote, as rows, one sample after the other.

    Attributes:
        classes: (B,) int64, what was drawn; -1 where the row was given.
        lengths: the samples' rows; they add up to B.
        student: (B,) log-probabilities of what was drawn by the student as it is, at temperature 1; 0 where none was.
        teachers: the same by each teacher.
        drawn: the same by what it was drawn from: the student, mixed with the first teacher, at their temperature.
    """

    classes: Tensor
    lengths: Sequence[int]
    student: Tensor
    teachers: Sequence[Tensor]
    drawn: Tensor


# --- what it may know when it is built ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setup:
    """What a method may know when it is built, measured by a dry forward at the real input size.

    Attributes:
        student: shape of each student role.
        teachers: the same for each teacher (or peer), in order.
        num_classes: K.
        num_samples: training samples; ``Batch.index`` lies in [0, num_samples).
        batch_size: samples in one global batch.
        labels: (num_samples,) int64 class of every training sample, -1 where it has none; None if unknown.
        student_parts, teacher_parts: the networks' own layers, in the teachers' order.
        kinds: by what the data call a sample's kind ("label", "rationale", ...) the (num_samples,) weights of the
            training rows that are of it, 0 for others; empty where the data tell no kinds.
    """

    student: Mapping[str, Any]
    teachers: Sequence[Mapping[str, Any]]
    num_classes: int
    num_samples: int
    batch_size: int
    labels: Tensor | None = None
    student_parts: Parts = field(default_factory=lambda: Parts())
    teacher_parts: Sequence[Parts] = ()
    kinds: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Parts:
    """A network's own layers, by what they are for.

    Attributes:
        classifier: the linear layer (or 1x1 convolution) that turns the embedding into the logits;
            ``kdtool.layers.classify`` applies it to any feature. A sentence where there is none: why not.
        norms: per role the batch norm that the feature comes out of, before any activation, or None.
        pooled: per role the dotted name of the module that gives its map, where nothing but the average over positions
            stands between the map and the classifier; else "".
    """

    classifier: Own | str = "it is not known"
    norms: Mapping[str, Any] = field(default_factory=dict)
    pooled: Mapping[str, Any] = field(default_factory=dict)


class Own:
    """A layer of a network's own that a method applies or reads where it is: no submodule of the method's.

    Read it when it is used, never before: a teacher may be trained after the method was built.

    Args:
        layer: has ``weight`` and ``bias``.
        frozen: gradients end here, as for a frozen teacher's; a student's or a peer's layer learns.
        name: the module's dotted name in its network.
    """

    def __init__(self, layer: Any, frozen: bool, name: str):
        self.layer, self.frozen, self.name = layer, frozen, name

    @property
    def weight(self) -> Tensor:
        found: Tensor = self.layer.weight
        return found.detach() if self.frozen else found

    @property
    def bias(self) -> Tensor | None:
        found: Tensor | None = self.layer.bias
        return found.detach() if self.frozen and found is not None else found
