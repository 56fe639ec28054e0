"""What a run would take on this machine: a few steps on noise, and the arithmetic."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kdtool.engine.plan import plan_stages
from kdtool.engine.precision import Precision
from kdtool.engine.step import Step, run_network, whole_out
from kdtool.engine.tree import to
from kdtool.method import Method, Stage
from kdtool.runs.setting import Setting
from kdtool.runs.kept import is_kept
from kdtool.runs.teachers import kept_in

ENOUGH = 0.25
"""Seconds of a step from which it is not measured with more samples."""

FORWARD = 1 / 3
"""Share of a step's time that is its forward: a backward takes about twice as long."""


Sample = Callable[[nn.Module, int], float]
Taught = Callable[[Stage, int], float]


@dataclass(frozen=True)
class Costs:
    """What an epoch of each of a run's trainings takes, in seconds or any other unit, validation included.

    Attributes:
        teachers: by the teacher's number in the recipe, of those that are to be trained.
        baseline: of the student alone; None where none is trained.
        stages: of the method's stages, in order.
        reading: of reading the training samples; None: not worth counting.
        reads_once: they are read once, not every epoch.
    """

    teachers: Mapping[int, float]
    baseline: float | None
    stages: Sequence[float]
    reading: float | None
    reads_once: bool

    def parts(
        self, setting: Setting, epochs: int, teacher_epochs: Mapping[int, int]
    ) -> list[tuple[str, str, float]]:
        """Return what a run's trainings take, in order: phase ("teacher resnet50", "baseline", "student"), stage, cost.

        Args:
            setting: whose run it is.
            epochs: of the student.
            teacher_epochs: by the teacher's number.

        Raises:
            InputError: the method's stages do not fit ``epochs``.
        """
        recipe, (alone,) = setting.recipe, plan_stages(None, epochs, None)
        names = ((f"teacher {setting.teachers[number].name}", number) for number in self.teachers)
        found = [(name, alone.stage.name, teacher_epochs[number] * self.teachers[number]) for name, number in names]
        if self.baseline is not None:
            found.append(("baseline", alone.stage.name, epochs * self.baseline))
        stages = plan_stages(setting.method, epochs, recipe.train.task_weight, recipe.schedule.epochs)
        each = zip(stages, self.stages, strict=True)
        return [*found, *(("student", planned.stage.name, planned.epochs * cost) for planned, cost in each)]

    def of(self, setting: Setting, epochs: int, teacher_epochs: Mapping[int, int]) -> dict[str, float]:
        """Return what a run takes by phase, as ``parts``, and "reading" where that counts."""
        found: dict[str, float] = {}
        for phase, _, cost in self.parts(setting, epochs, teacher_epochs):
            found[phase] = found.get(phase, 0.0) + cost
        if self.reading is not None:
            times = sum(each.epochs for each in setting.stages) * epochs / setting.recipe.train.epochs
            found["reading"] = self.reading * (1 if self.reads_once else times)
        return found


def estimate(setting: Setting, reading: float | None) -> dict[str, float]:
    """Return seconds by what takes them, and their "total".

    They are of the trainings and of validation. Weights and buffers of the networks change: they are to be thrown away.

    Args:
        setting: what would be run.
        reading: seconds that reading a training sample takes; None: not worth counting.
    """
    found = measured(setting, reading).of(setting, *asked(setting))
    return {**found, "total": sum(found.values())}


def asked(setting: Setting) -> tuple[int, dict[int, int]]:
    """Return the epochs that a recipe asks for: the student's, and each teacher's by its number."""
    recipe = setting.recipe
    return recipe.train.epochs, {number: each.train.length for number, each in enumerate(recipe.teacher)}


def measured(setting: Setting, reading: float | None) -> Costs:
    """Return seconds, measured by steps on noise; as for ``estimate``."""
    nets = setting.networks

    def alone(net: nn.Module, batch_size: int) -> float:
        return _per_sample(_steps(setting, net, None, Stage("alone", lambda batch: {}), []), batch_size)

    def taught(stage: Stage, batch_size: int) -> float:
        steps = _steps(setting, nets.student_net, setting.method, stage, list(nets.teacher_nets))
        return _per_sample(steps, batch_size)

    return _costs(setting, alone, taught, reading)


def counted(setting: Setting) -> Costs:
    """Return multiply-accumulates instead of seconds, for which nothing has to run more than once.

    What a method's own loss costs is left out, so they tell how a run's parts compare, roughly.
    """
    built = {id(net): each for net, each in zip(setting.networks.teacher_nets, setting.teachers, strict=True)}
    forward = {key: float(each.macs) for key, each in built.items()}
    student = float(setting.student.macs)

    def alone(net: nn.Module, batch_size: int) -> float:
        return forward.get(id(net), student) / FORWARD

    def taught(stage: Stage, batch_size: int) -> float:
        return student / FORWARD + sum(forward.values()) / (FORWARD if setting.online else 1)

    return _costs(setting, alone, taught, None)


def _costs(setting: Setting, alone: Sample, taught: Taught, reading: float | None) -> Costs:
    """Return what epochs take.

    Args:
        setting: what would be run.
        alone: what a sample takes in a training of a network on hard labels, with so many in a batch.
        taught: likewise in a stage of the student's training, the teachers' forwards included.
        reading: what reading a sample takes.
    """
    recipe, data = setting.recipe, setting.data
    batch_size = min(recipe.train.batch_size, setting.train_size)
    val = len(data.val) if data.val is not None else 0
    teachers: dict[int, float] = {}
    members = zip(recipe.teacher, setting.teachers, setting.networks.teacher_nets, strict=True)
    for number, (section, built, net) in enumerate(members):
        folder = None if setting.online else kept_in(section, built, recipe, setting.task, data)
        if built.needs_training and folder is not None and not is_kept(folder, lambda _: None):
            teachers[number] = alone(net, section.train.batch_size) * (len(data.train) + FORWARD * val)
    own = alone(setting.networks.student_net, batch_size)
    seen = setting.train_batches.steps * batch_size
    trained = setting.train_size if data.stream is None else seen  # whose epochs are no passes
    return Costs(
        teachers,
        own * (trained + FORWARD * val) if recipe.baseline and setting.method is not None else None,
        [taught(planned.stage, batch_size) * seen + FORWARD * own * val for planned in setting.stages],
        reading * setting.train_size if reading is not None else None,
        bool(getattr(setting.train_batches, "in_memory", True)),
    )


def _steps(
    setting: Setting, net: nn.Module, method: Method | None, stage: Stage, teachers: list[Any]
) -> Callable[[int], None]:
    """Return what takes a step with so many samples."""
    objective = setting.task.objective(setting.data, 0.0)
    precision = Precision(setting.recipe.train.precision, setting.device)
    peers, frozen = (teachers, []) if setting.online else ([], teachers)
    step = Step(net, method, peers, objective.hard_loss, precision).to(setting.device)
    step.eval()  # one sample of a class may be all that there is
    step.stage = stage
    for teacher in frozen:
        teacher.to(setting.device).eval()

    def run(count: int) -> None:
        inputs = to(setting.dry_inputs(count), setting.device)
        with torch.no_grad():
            taught = [run_network(each, inputs, precision) for each in frozen]
        student, along = step.networks(inputs)
        student = whole_out(student)
        count = getattr(objective, "label_count", objective.num_classes)
        rows_B = torch.arange(len(student.logits), device=setting.device)
        labels_B = rows_B % count if count else torch.full_like(rows_B, -1)
        terms, _ = step.losses(student, along or taught, labels_B, rows_B, 0, 0.0)
        total = torch.stack([term.float() for term in terms.values()]).sum()
        if total.requires_grad:
            total.backward()
        step.zero_grad()

    return run


def _per_sample(run: Callable[[int], None], most: int) -> float:
    """Return the seconds a sample of what takes a number of them, the first call left out."""
    count = min(2, most)
    run(count)
    while True:
        began = time.perf_counter()
        run(count)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        spent = time.perf_counter() - began
        if spent >= ENOUGH or count >= most:
            return spent / count
        count = min(2 * count, most)
