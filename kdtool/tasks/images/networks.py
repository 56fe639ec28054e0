"""A recipe's image networks: built, and made to take one another's inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtool.errors import InputError
from kdtool.tasks.images.data.dataset import DataSet
from kdtool.tasks.images.data.open import default_image_size
from kdtool.tasks.images.models.backbone import Backbone
from kdtool.tasks.images.models.build import Built, build
from kdtool.tasks.images.models.forward import check_training
from kdtool.tasks.images.models.inputs import of_data, of_section
from kdtool.tasks.images.options import Recipe


class Adapted(nn.Module):
    """A tapped network that takes another network's inputs: resized and re-normalised to its own.

    Args:
        network: takes (B, C, size, size), normalised by its own mean and std.
        size: its input size in pixels.
        given: mean and std that the inputs come with.
        own: mean and std that the network wants.
        interpolation: how inputs are resized; lanczos, which tensors are not resized by, stands for bicubic.
    """

    def __init__(
        self,
        network: Backbone,
        size: int,
        given: tuple[Sequence[float], Sequence[float]],
        own: tuple[Sequence[float], Sequence[float]],
        interpolation: str | None = None,
    ):
        super().__init__()
        self.network = network
        self.size = size
        self.mode = interpolation if interpolation in ("bilinear", "nearest") else "bicubic"
        scale = torch.tensor(given[1], dtype=torch.float64) / torch.tensor(own[1], dtype=torch.float64)
        shift = (torch.tensor(given[0], dtype=torch.float64) - torch.tensor(own[0], dtype=torch.float64)) / (
            torch.tensor(own[1], dtype=torch.float64)
        )
        self.same = tuple(given[0]) == tuple(own[0]) and tuple(given[1]) == tuple(own[1])
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", scale.float().view(1, -1, 1, 1), persistent=False)
        self.register_buffer("shift", shift.float().view(1, -1, 1, 1), persistent=False)

    @property
    def module(self) -> nn.Module:
        """The plain network, whose weights are stored."""
        return self.network.module

    def forward(self, inputs: Tensor) -> tuple[Tensor, dict[str, Any]]:
        if inputs.shape[-1] != self.size:
            inputs = F.interpolate(
                inputs,
                (self.size, self.size),
                mode=self.mode,
                align_corners=None if self.mode == "nearest" else False,
                antialias=self.size < inputs.shape[-1] and self.mode != "nearest",
            )
        if not self.same:
            inputs = inputs * self.scale + self.shift
        result: tuple[Tensor, dict[str, Any]] = self.network(inputs)
        return result


def adapted(network: Backbone, teacher: Built, student: Built) -> Adapted:
    """Return a teacher's tapped network as one that takes the student's inputs."""
    return as_given(network, teacher, (student.mean, student.std))


def as_given(network: Backbone, teacher: Built, given: tuple[Sequence[float], Sequence[float]]) -> Adapted:
    """Return a network as one that takes inputs of any size and of a given mean and std."""
    own = (tuple(teacher.mean), tuple(teacher.std))
    return Adapted(network, teacher.image_size, given, own, teacher.interpolation)


def image_size(recipe: Recipe, data: DataSet) -> int:
    """Return the pixels a side of the student's inputs."""
    return recipe.data.image_size or default_image_size(data.native_size)


def build_student(recipe: Recipe, num_classes: int, image_size: int) -> Built:
    """Return the student with its first weights, a function of ``train.seed``, and the recipe's normalisation."""
    section = recipe.student
    built = build(
        section.model,
        section.weights,
        num_classes,
        image_size,
        section.model_args,
        channels=recipe.data.channels,
        prefer_scratch=recipe.data.name == "digits",
        seed=recipe.train.seed,
        role="student",
        said=[of_section(section, "student"), of_data(recipe.data)],
        weights_key=section.weights_key,
        new_head=section.new_head,
    )
    check_training(built)
    return built


def build_teachers(recipe: Recipe, num_classes: int, image_size: int, online: bool) -> list[Built]:
    """Return the teachers in order; first weights follow their own seed, a peer's the run's."""
    teachers = [
        build(
            section.model,
            "scratch" if online and section.weights == "auto" else section.weights,
            num_classes,
            section.image_size or image_size,
            section.model_args,
            channels=recipe.data.channels,
            prefer_scratch=recipe.data.name == "digits",
            seed=recipe.train.seed if online else section.train.seed,
            role=f"peer{number}" if online else "teacher",
            said=[of_section(section, "teacher" if len(recipe.teacher) == 1 else f"teacher.{number}")],
            otherwise=[of_data(recipe.data)],
            weights_key=section.weights_key,
            new_head=section.new_head,
        )
        for number, section in enumerate(recipe.teacher)
    ]
    for section, built in zip(recipe.teacher, teachers, strict=True):
        if not num_classes and built.needs_training and not online:
            _as_it_is(built, section.weights)
        if online or built.needs_training:
            check_training(built)
    return teachers


def _as_it_is(built: Built, weights: str) -> None:
    """Take a teacher without labels as it starts, where that was asked for.

    Raises:
        InputError: it was not.
    """
    if weights != "scratch":
        raise InputError(
            f"teacher {built.name} starts from scratch, and without labels it cannot be trained: give its weights "
            "(teacher.weights=FILE, or local-dir:FOLDER as the teacher), or teacher.weights=scratch for a random one."
        )
    built.needs_training = False
    built.notes.append(f"{built.name} teaches as it was made at random: nothing trains it without labels")
