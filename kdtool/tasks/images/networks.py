"""The pair (or more) of a run: student and teachers built, tapped, measured, and the method on top."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtool.engine.composition import build_method, combined_taps
from kdtool.errors import InputError
from kdtool.method import Method, Setup, Taps
from kdtool.randomness import seed_torch
from kdtool.recipe.schema import Recipe
from kdtool.tasks.images.models.backbone import Backbone
from kdtool.tasks.images.models.build import Built, build

SCRATCH_LR, TEACHER_LR, FINE_TUNE_LR = 0.003, 0.001, 0.0003
"""Default peak learning rates. A teacher is the larger network and gets fewer epochs; a lower rate is the safer one."""


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


class Adapted(nn.Module):
    """A tapped network that takes another network's inputs: resized and re-normalised to its own.

    Args:
        network: takes (B, 3, size, size), normalised by its own mean and std.
        size: its input size in pixels.
        given: mean and std that the inputs come with.
        own: mean and std that the network wants.
    """

    def __init__(
        self,
        network: Backbone,
        size: int,
        given: tuple[Sequence[float], Sequence[float]],
        own: tuple[Sequence[float], Sequence[float]],
    ):
        super().__init__()
        self.network = network
        self.size = size
        scale = torch.tensor(given[1], dtype=torch.float64) / torch.tensor(own[1], dtype=torch.float64)
        shift = (torch.tensor(given[0], dtype=torch.float64) - torch.tensor(own[0], dtype=torch.float64)) / (
            torch.tensor(own[1], dtype=torch.float64)
        )
        self.same = tuple(given[0]) == tuple(own[0]) and tuple(given[1]) == tuple(own[1])
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", scale.float().view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", shift.float().view(1, 3, 1, 1), persistent=False)

    @property
    def module(self) -> nn.Module:
        """The plain network, whose weights are stored."""
        return self.network.module

    def forward(self, inputs: Tensor) -> tuple[Tensor, dict[str, Any]]:
        if inputs.shape[-1] != self.size:
            inputs = F.interpolate(
                inputs,
                (self.size, self.size),
                mode="bicubic",
                align_corners=False,
                antialias=self.size < inputs.shape[-1],
            )
        if not self.same:
            inputs = inputs * self.scale + self.shift
        result: tuple[Tensor, dict[str, Any]] = self.network(inputs)
        return result


@dataclass
class Networks:
    """The networks of a run before training.

    Attributes:
        student, teachers: what was built and from where; ``teachers`` are the peers of an online method.
        student_net, teacher_nets: the same, tapped, all taking the student's inputs.
        shapes: what the dry forward measured.
        mean, std: normalisation of the student's inputs.
    """

    student: Built
    teachers: list[Built]
    student_net: Backbone
    teacher_nets: list[Adapted]
    taps: Taps
    shapes: tuple[dict[str, Any], list[dict[str, Any]]]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def build_student(recipe: Recipe, num_classes: int, image_size: int) -> Built:
    """Return the student with its first weights, a function of ``train.seed``."""
    section = recipe.student
    return build(
        section.model,
        section.weights,
        num_classes,
        image_size,
        section.model_args,
        prefer_scratch=recipe.data.name == "digits",
        seed=recipe.train.seed,
        role="student",
    )


def build_teachers(recipe: Recipe, num_classes: int, image_size: int, online: bool) -> list[Built]:
    """Return the teachers in order; first weights follow their own seed, a peer's the run's."""
    return [
        build(
            section.model,
            "scratch" if online and section.weights == "auto" else section.weights,
            num_classes,
            section.image_size or image_size,
            section.model_args,
            prefer_scratch=recipe.data.name == "digits",
            seed=recipe.train.seed if online else section.train.seed,
            role=f"peer{number}" if online else "teacher",
        )
        for number, section in enumerate(recipe.teacher)
    ]


def settle_rates(recipe: Recipe, student: Built, teachers: list[Built]) -> None:
    """Fill in the learning rates that the recipe leaves open: low where trained weights are only fine-tuned."""
    if recipe.optim.lr is None:
        recipe.optim.lr = SCRATCH_LR if student.origin == "scratch" else FINE_TUNE_LR
    for section, built in zip(recipe.teacher, teachers, strict=True):
        if section.train.optim.lr is None:
            section.train.optim.lr = TEACHER_LR if built.origin == "scratch" else FINE_TUNE_LR


def tap_networks(recipe: Recipe, methods: dict[str, type[Method]], student: Built, teachers: list[Built]) -> Networks:
    """Tap the built networks where the methods want it and measure the shapes with a dry forward."""
    taps = combined_taps(methods, recipe.options) if methods else Taps()
    mean = tuple(recipe.data.mean or student.mean)
    std = tuple(recipe.data.std or student.std)
    student_net = student.tapped(taps.student)
    teacher_nets = [
        Adapted(t.tapped(taps.teacher), t.image_size, (mean, std), (tuple(t.mean), tuple(t.std))) for t in teachers
    ]
    shapes = (
        student_net.shapes(student.image_size),
        [net.network.shapes(t.image_size) for net, t in zip(teacher_nets, teachers, strict=True)],
    )
    return Networks(student, teachers, student_net, teacher_nets, taps, shapes, mean, std)


def make_method(
    recipe: Recipe,
    methods: dict[str, type[Method]],
    networks: Networks,
    num_classes: int,
    labels: Tensor | None,
    batch_size: int,
) -> Method | None:
    """Return the run's method, its own first weights a function of ``train.seed``; None for hard labels only.

    Args:
        labels: (num_samples,) int64 class of every training sample, -1 for none; None: they are a stream.
        batch_size: samples in a global batch.

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
    )
    seed_torch("init", "method", recipe.train.seed)
    return build_method(methods, recipe.options, setup)
