"""The pair (or more) of a run: student and teachers tapped and measured, and the method on top."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from kdtool.engine.by_input import tap_input, without_input
from kdtool.engine.composition import build_method, combined_taps
from kdtool.errors import InputError
from kdtool.method import Method, Parts, Setup, Taps
from kdtool.randomness import seed_torch
from kdtool.recipe.schema import Recipe
from kdtool.tasks.common.parts import parts_of
from kdtool.tasks.task import Built, Task

SCRATCH_LR, TEACHER_LR = 0.003, 0.001
"""Default peak learning rates. A teacher is the larger network and gets fewer epochs; a lower rate is the safer one."""

TEACHER_EPOCHS = 8
"""Of the training of a teacher whose weights came with it, where the recipe does not say."""


class StreamSetup(Setup):
    """What a method may know of a stream: its samples pass by, and nothing can be kept for each of them."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("num_samples", "labels"):
            raise InputError(
                f"the method reads setup.{name}, for it keeps or draws something for every training sample, and a "
                "stream (train.steps) cannot offer that: choose another method, or a data set that is read by number "
                "(a folder, hfds/…)."
            )
        return super().__getattribute__(name)


@dataclass(frozen=True)
class Networks:
    """The networks of a run before training.

    Attributes:
        student, teachers: what was built and from where; ``teachers`` are the peers of an online method.
        student_net, teacher_nets: the same, tapped, all taking the student's inputs.
        taps: what is tapped.
        shapes: what the dry forwards measured, of the student and of each teacher.
        parts: the networks' own layers, of the student and of each teacher.
    """

    student: Built
    teachers: list[Built]
    student_net: Any
    teacher_nets: list[Any]
    taps: Taps
    shapes: tuple[dict[str, Any], list[dict[str, Any]]]
    parts: tuple[Parts, list[Parts]]


def with_rates(recipe: Recipe, student: Built, teachers: list[Built]) -> Recipe:
    """Return the recipe with what it leaves open: rates, low where trained weights are only fine-tuned, and the epochs
    of a teacher's training."""
    settled = copy.deepcopy(recipe)
    if settled.optim.lr is None:
        settled.optim.lr = SCRATCH_LR if student.origin == "scratch" else settled.student.fine_tune_lr
    for section, built in zip(settled.teacher, teachers, strict=True):
        if section.train.optim.lr is None:
            section.train.optim.lr = TEACHER_LR if built.origin == "scratch" else section.fine_tune_lr
        if section.train.epochs is None:
            section.train.epochs = section.scratch_epochs if built.origin == "scratch" else TEACHER_EPOCHS
    return settled


def tap_networks(
    task: Task, options: Mapping[str, Any], methods: Mapping[str, type[Method]], student: Built, teachers: list[Built]
) -> Networks:
    """Tap the built networks where the methods want it and measure the shapes with a dry forward.

    Args:
        task: whose networks they are.
        options: each method's ``Config`` by name.
        methods: by name, in order.
        student, teachers: built.

    Raises:
        InputError: a tap does not fit a network.
    """
    taps = combined_taps(methods, options) if methods else Taps()
    student_net = student.tapped(without_input(taps.student))
    teacher_nets = [task.adapt(each.tapped(without_input(taps.teacher)), each, student) for each in teachers]
    dry = student.dry_inputs(1)
    shapes = (
        student_net.shapes() | tap_input(student_net, taps.student, dry),
        [net.network.shapes() | tap_input(net, taps.teacher, dry) for net in teacher_nets],
    )
    frozen = not any(method.online for method in methods.values())
    parts = parts_of(student_net, False), [parts_of(net.network, frozen) for net in teacher_nets]
    return Networks(student, teachers, student_net, teacher_nets, taps, shapes, parts)


def further_views(task: Task, methods: Mapping[str, type[Method]], options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the further views of each sample that methods see side by side, each once.

    Args:
        task: that makes them.
        methods: by name, in order.
        options: each method's ``Config`` by name.

    Raises:
        InputError: the task has no such view.
    """
    found: dict[str, None] = {}
    for name, method in methods.items():
        for view in method.views(options[name]):
            if view not in task.views:
                valid = ", ".join(task.views) or "none"
                raise InputError(
                    f"method {name!r} sees each sample in the view {view!r} beside the usual one, and the task "
                    f"{task.name!r} has none of that name; it has: {valid}. Choose another method, or see `kdtool show "
                    f"{name}` for an option that does without."
                )
            found[view] = None
    return tuple(found)


def make_method(
    recipe: Recipe,
    methods: Mapping[str, type[Method]],
    networks: Networks,
    num_classes: int,
    labels: Tensor | None,
    batch_size: int,
    kinds: Mapping[str, Tensor] | None = None,
) -> Method | None:
    """Return the run's method, its own first weights a function of ``train.seed``; None for hard labels only.

    Args:
        recipe: whose options the methods take.
        methods: by name, in order.
        networks: tapped for them.
        num_classes: K.
        labels: (rows,) int64 class of every training row, -1 for none; None: they are a stream.
        batch_size: samples in a global batch.
        kinds: see ``Setup``.

    Raises:
        InputError: the method needs what a stream has not got.
    """
    setup = (Setup if labels is not None else StreamSetup)(
        student=networks.shapes[0],
        teachers=networks.shapes[1],
        num_classes=num_classes,
        num_samples=len(labels) if labels is not None else 0,
        batch_size=batch_size,
        labels=labels,
        student_parts=networks.parts[0],
        teacher_parts=networks.parts[1],
        kinds=kinds or {},
    )
    seed_torch("init", "method", recipe.train.seed)
    return build_method(methods, recipe.options, setup)
