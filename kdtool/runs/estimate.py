"""What a run would take on this machine: a few steps on noise, and the arithmetic."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

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


def estimate(setting: Setting, reading: float | None) -> dict[str, float]:
    """Return seconds by what takes them, and their "total".

    They are of the trainings and of validation. Weights and buffers of the networks change: they are to be thrown away.

    Args:
        setting: what would be run.
        reading: seconds that reading a training sample takes; None: not worth counting.
    """
    recipe, data = setting.recipe, setting.data
    batch_size = min(recipe.train.batch_size, setting.train_size)
    val = len(data.val) if data.val is not None else 0
    found: dict[str, float] = {}
    for section, built, net in zip(recipe.teacher, setting.teachers, setting.networks.teacher_nets, strict=True):
        folder = None if setting.online else kept_in(section, built, recipe, setting.task, data)
        if built.needs_training and folder is not None and not is_kept(folder, lambda _: None):
            each = _alone(setting, net, section.train.batch_size)
            found[f"teacher {built.name}"] = section.train.epochs * each * (len(data.train) + FORWARD * val)
    alone = _alone(setting, setting.networks.student_net, batch_size)
    epochs = sum(planned.epochs for planned in setting.stages)
    if recipe.baseline and setting.method is not None:
        found["baseline"] = epochs * alone * (setting.train_size + FORWARD * val)
    found["student"] = sum(
        planned.epochs
        * (_stage(setting, planned.stage, batch_size) * setting.train_batches.steps * batch_size + FORWARD * alone * val)
        for planned in setting.stages
    )
    if reading is not None:
        once = getattr(setting.train_batches, "in_memory", True)
        found["reading"] = reading * setting.train_size * (1 if once else epochs)
    return {**found, "total": sum(found.values())}


def _alone(setting: Setting, net: nn.Module, batch_size: int) -> float:
    """Return the seconds a sample of a network that learns hard labels."""
    return _per_sample(_steps(setting, net, None, Stage("alone", lambda batch: {}), []), batch_size)


def _stage(setting: Setting, stage: Stage, batch_size: int) -> float:
    """Return the seconds a sample of a stage of the method, with the teachers' forwards."""
    nets = setting.networks
    return _per_sample(
        _steps(setting, nets.student_net, setting.method, stage, list(nets.teacher_nets)), batch_size
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
