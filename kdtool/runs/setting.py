"""A run's setting: data, networks, method and stages, all built and measured, nothing trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from kdtool import registry
from kdtool.engine.composition import composed
from kdtool.engine.host import flush_denormals, keep_freed_memory
from kdtool.engine.job import Batches, Objective, Weighable
from kdtool.engine.optim import build_optimizer
from kdtool.engine.plan import Planned, plan_stages
from kdtool.engine.precision import choose_kernels
from kdtool.engine.smallest import refuse_single
from kdtool.engine.processes import own_device, rank, world_size
from kdtool.engine.tree import Views
from kdtool.errors import InputError
from kdtool.events import Reporter
from kdtool.method import Method
from kdtool.recipe import load as recipes
from kdtool.recipe.schema import Recipe
from kdtool.registry import tasks
from kdtool.runs.classless import refuse_logits, refuse_softmax
from kdtool.runs.networks import Networks, further_views, make_method, tap_networks, with_rates
from kdtool.runs.sharding import check_shard
from kdtool.tasks.task import Built, Reading, Task

CHECK_SAMPLES = 2000
"""How many training samples a teacher is checked on where no validation split is held out."""

SMALL, AT_ONCE = 3 * 64 * 64, 1000
"""Numbers of an input of which an accelerator looks at so many at once: a smaller batch leaves most of it idle."""


@dataclass(frozen=True)
class Pair:
    """What of a setting does not depend on the method: the first half of building it.

    Attributes:
        recipe: checked, with the learning rates that it had left open.
        data: a ``kdtool.tasks.task.Dataset``.
        online: the teachers are peers that train along.
    """

    recipe: Recipe
    task: Task
    device: torch.device
    methods: Mapping[str, type[Method]]
    data: Any
    student: Built
    teachers: list[Built]

    @property
    def built(self) -> list[Built]:
        """The student, then the teachers: all that take the student's batches."""
        return [self.student, *self.teachers]

    @property
    def online(self) -> bool:
        return any(method.online for method in self.methods.values())


@dataclass(frozen=True)
class Setting(Pair):
    """A run that is built and measured, and not started.

    Attributes:
        transfer_set: the split that the student is trained on.
        objective: what is learnt.
        networks: tapped, each taking the student's inputs.
        train_batches: the transfer set's.
        method: None for hard labels only.
        stages: the method's, with their lengths.
    """

    transfer_set: Any
    objective: Objective
    networks: Networks
    train_batches: Batches
    method: Method | None
    stages: list[Planned]

    @property
    def told(self) -> str:
        """How many samples the student is trained on, and how they are read, in words."""
        return _told(self, self.train_size, self.train_batches)

    @property
    def train_size(self) -> int:
        """How many samples the student is trained on."""
        return len(self.transfer_set if self.data.stream is None else self.data.stream)

    def batches(self, split: Any, train: bool = False) -> Batches:
        """Return a split's batches as the student takes them."""
        return self.task.batches(self.data, split, self.recipe, self.built, _reading(self, train))

    def teacher_batches(self, number: int, split: Any, usual: Batches) -> Batches:
        """Return what a teacher is measured on.

        Args:
            number: which of them.
            split: the samples.
            usual: their batches as the student takes them.
        """
        own = self.teachers[number]
        if not own.apart:
            return usual
        return self.task.batches(self.data, split, self.recipe, [own], _reading(self, train=False))

    def dry_inputs(self, count: int) -> Any:
        """Return noise as the student takes it, in all the views that the method sees."""
        return _dry_inputs(self, count)

    @cached_property
    def val_batches(self) -> Batches | None:
        """The validation split's."""
        return self.batches(self.data.val) if self.data.val is not None else None

    @cached_property
    def teacher_precisions(self) -> list[str]:
        """Arithmetic of each teacher's forward."""
        own = [section.precision for section in self.recipe.teacher]
        return [self.recipe.train.precision if name == "same" else name for name in own]

    def checked_on(self) -> tuple[Any, str]:
        """Return the samples that ready teachers are checked on, and which split they are of."""
        if self.data.val is not None:
            return self.data.val, "validation"
        train = self.data.train
        drawn = np.random.Generator(np.random.Philox(0)).permutation(len(train))[:CHECK_SAMPLES]
        return train.take(np.sort(drawn)), "training"


def build_pair(recipe: Recipe, reporter: Reporter) -> Pair:
    """Open a recipe's data and build its networks.

    Raises:
        InputError: something that the recipe names is wrong.
    """
    if recipe.train.time_limit is not None:
        raise InputError(
            "train.time_limit cuts a run's epochs (kdtool run), and nothing else is to be cut so: leave it out, and "
            "say the epochs (train.epochs)."
        )
    task, say = tasks.get(recipe.task), reporter.note
    reporter.about(task.unit, task.headline)
    device = own_device(recipe.train.device)
    flush_denormals()
    choose_kernels(recipe.train.deterministic)
    if device.type == "cpu":
        keep_freed_memory()
    methods = {name: registry.get(name) for name in recipes.parts(recipe)}
    say(f"plugins loaded: {', '.join(registry.origins(methods))}")
    data = task.open(recipe)
    student = task.student(recipe, data)
    teachers = task.teachers(recipe, data, any(method.online for method in methods.values()))
    for note in dict.fromkeys(note for built in [student, *teachers] for note in built.notes):
        say(note)
    for warning in dict.fromkeys(warning for built in [student, *teachers] for warning in built.warnings):
        reporter.warn(warning)
    return Pair(with_rates(recipe, student, teachers), task, device, methods, data, student, teachers)


def build_setting(recipe: Recipe, reporter: Reporter | None = None) -> Setting:
    """Build and measure all that a recipe asks for; nothing is trained and nothing written.

    Args:
        recipe: checked.
        reporter: who is told of resolved names and the like.

    Raises:
        InputError: something that the recipe names is wrong, or does not fit.
    """
    reporter = reporter or Reporter()
    return complete(build_pair(recipe, reporter), reporter)


def complete(pair: Pair, reporter: Reporter) -> Setting:
    """Return the whole setting of a pair.

    Raises:
        InputError: the method cannot be applied to the pair, or its stages do not fit the budget.
    """
    recipe, task, data = pair.recipe, pair.task, pair.data
    objective = task.objective(data, recipe.train.label_smoothing)
    networks = tap_networks(task, recipe.options, pair.methods, pair.student, pair.teachers)
    transfer_set = task.transfer_set(data, recipe)
    for note in data.notes:
        reporter.note(note)
    train_batches = task.batches(data, transfer_set, recipe, pair.built, _reading(pair, train=True))
    size = len(transfer_set if data.stream is None else data.stream)
    reporter.note(_told(pair, size, train_batches))
    labels = torch.from_numpy(transfer_set.labels) if data.stream is None else None
    several = getattr(objective, "targets", "single") == "multi"
    if recipe.train.class_weights == "balanced":
        if labels is None or not isinstance(objective, Weighable):
            of = "samples with several classes" if several else f"the task {task.name!r}"
            of = "a stream, whose classes are not counted" if labels is None else of
            raise InputError(f"train.class_weights=balanced is not possible for {of}. Valid: none.")
        objective.weigh(labels)
    if recipe.train.patience is not None and (data.val is None or recipe.train.select == "last"):
        raise InputError(
            "train.patience waits for a better epoch on the validation split, and needs one (data.val_fraction) and "
            "train.select=best. Leave it out to run through."
        )
    batch_size = min(recipe.train.batch_size, size)
    kinds = task.kinds(data, transfer_set) if data.stream is None else {}
    known = torch.full_like(labels, -1) if several and labels is not None else labels  # numbers of sets are no classes
    method = make_method(recipe, pair.methods, networks, objective.num_classes, known, batch_size, kinds)
    nets = networks.student_net, networks.teacher_nets
    if not objective.num_classes:
        refuse_logits(recipe.method, method, *nets, _dry_inputs(pair, 4))
    elif several:
        refuse_softmax(pair.methods, method, *nets, _dry_inputs(pair, 4))
    for remark in method.remarks() if method is not None else ():
        reporter.warn(remark)
    stages = plan_stages(method, recipe.train.epochs, recipe.train.task_weight, recipe.schedule.epochs)
    for note in composed(method, stages[-1].stage.task_weight):
        reporter.note(note)
    setting = Setting(
        **vars(pair),
        transfer_set=transfer_set,
        objective=objective,
        networks=networks,
        train_batches=train_batches,
        method=method,
        stages=stages,
    )
    _check_optimizers(setting)
    _check_stream(setting)
    _check_parts(setting)
    check_shard(setting)
    return setting


def _told(pair: Pair, size: int, batches: Batches) -> str:
    placement = getattr(batches, "placement", "")
    return f"data {pair.data.name}: {size} training {pair.task.unit}{', ' * bool(placement)}{placement}"


def _dry_inputs(pair: Pair, count: int) -> Any:
    dry = pair.task.dry_inputs(pair.built, count)
    further = further_views(pair.task, pair.methods, pair.recipe.options)
    return Views(dry, dict.fromkeys(further, dry)) if further else dry


def _reading(pair: Pair, train: bool) -> Reading:
    cfg = pair.recipe.train
    steps = -(-cfg.steps // cfg.epochs) if train and cfg.steps is not None else None
    part = (rank(), world_size())
    views = further_views(pair.task, pair.methods, pair.recipe.options) if train else ()
    size = cfg.batch_size if train else _looked_at(pair)
    return Reading(size, cfg.seed, pair.device, train, part, steps, cfg.channels_last, views)


def _looked_at(pair: Pair) -> int:
    """Return the size of batches of which nothing is learnt."""
    own, trained = pair.recipe.eval.batch_size, pair.recipe.train.batch_size
    if own is not None or pair.device.type == "cpu":
        return own or trained
    one = pair.student.dry_inputs(1)
    small = isinstance(one, torch.Tensor) and one.is_floating_point() and one.numel() <= SMALL
    return max(trained, AT_ONCE) if small else trained


def _check_optimizers(setting: Setting) -> None:
    """Refuse unknown optimizers before hours of teacher training, not after."""
    recipe = setting.recipe
    build_optimizer(recipe.optim, setting.student.module)
    for number, (section, built) in enumerate(zip(recipe.teacher, setting.teachers, strict=True)):
        if built.needs_training and not setting.online:
            where = f"teacher.{number}" if len(recipe.teacher) > 1 else "teacher"
            build_optimizer(section.train.optim, built.module, f"{where}.train.optim")


def _check_parts(setting: Setting) -> None:
    """Refuse batches that leave a batch norm one value a channel, before hours of teacher training, not after."""
    recipe, nets = setting.recipe, setting.networks
    together = recipe.parallel.sync_bn and world_size() > 1
    if not together and not recipe.train.freeze_bn:
        size = min(recipe.train.batch_size, setting.train_size)
        along = zip(nets.teachers, nets.teacher_nets, strict=True) if setting.online else ()
        for built, net in [(setting.student, nets.student_net), *along]:
            one = setting.task.dry_inputs(setting.built, 1)
            refuse_single(built.name, net, one, size, recipe.train.accumulate, "train.batch_size")
    for section, built in zip(recipe.teacher, setting.teachers, strict=True):
        if built.needs_training and not setting.online:
            size = min(section.train.batch_size, len(setting.data.train))
            refuse_single(built.name, built.tapped(), built.dry_inputs(1), size, 1, "teacher.train.batch_size")


def _check_stream(setting: Setting) -> None:
    if setting.data.stream is not None and any(planned.stage.teacher_writes for planned in setting.stages):
        raise InputError(
            f"method {setting.recipe.method!r} learns what the teacher writes, of which every answer is kept in "
            "memory, and a stream (train.steps) is more than that holds: let the teacher write before (kdtool "
            "generate), and stream its text with --method none."
        )
    for built in setting.teachers:
        if setting.data.stream is not None and built.needs_training and not setting.online:
            raise InputError(
                f"teacher {built.name} would have to be trained on a stream (train.steps) first. Train it by "
                f"kdtool run --method none --student {built.name} on the same data, and give its weights: "
                "--teacher-weights FOLDER/student/model.safetensors"
            )
