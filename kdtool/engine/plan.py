"""From a method's stages to epochs: who gets how much of the budget."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kdtool.errors import InputError
from kdtool.method import Batch, Method, Stage, Terms


@dataclass(frozen=True)
class Planned:
    """A stage with its length.

    Attributes:
        epochs: how many, at least 1.
        first_epoch: the student's epochs before it, which number views and orders; 0 where the student is not trained.
        selects: True for the last stage, whose epochs compete for the best.
    """

    stage: Stage
    epochs: int
    first_epoch: int
    selects: bool


def hard_labels_only(batch: Batch) -> Terms:
    """The loss of a run without a method: nothing beyond the task's own."""
    return {}


def plan_stages(method: Method | None, epochs: int, task_weight: float | None) -> list[Planned]:
    """Share the student's budget of ``epochs`` among the stages that train it; others, and ``on_top``, are extra.

    Args:
        method: None is one stage on hard labels.
        epochs: ``train.epochs``.
        task_weight: replaces the last stage's weight of the hard-label loss.

    Raises:
        InputError: the stages do not fit the budget, or name themselves alike.
    """
    stages = method.stages() if method is not None else [Stage("train", hard_labels_only)]
    if task_weight is not None:
        stages[-1] = replace(stages[-1], task_weight=task_weight)
    names = [stage.name for stage in stages]
    if len(set(names)) < len(names):
        raise InputError(f"the method's stages share a name: {names}.")
    lengths = _lengths(stages, epochs)
    planned, before = [], 0
    for number, (stage, length) in enumerate(zip(stages, lengths, strict=True)):
        trains = "student" in stage.trains
        planned.append(Planned(stage, length, before if trains else 0, number == len(stages) - 1))
        before += length if trains else 0
    return planned


def _lengths(stages: list[Stage], epochs: int) -> list[int]:
    fixed = [_fixed(stage, epochs) for stage in stages]
    open_ended = [i for i, length in enumerate(fixed) if length is None]
    spent = sum(
        length or 0
        for stage, length in zip(stages, fixed, strict=True)
        if "student" in stage.trains and not stage.on_top
    )
    left = epochs - spent
    if left < len(open_ended) or (left < 0):
        shares = ", ".join(f"{stage.name}: {length or 'the rest'}" for stage, length in zip(stages, fixed, strict=True))
        raise InputError(
            f"the stages need more than train.epochs={epochs} ({shares}): raise --epochs, or give the stages less."
        )
    for position, i in enumerate(open_ended):
        # Equal parts; the first ones take what does not divide.
        fixed[i] = left // len(open_ended) + (1 if position < left % len(open_ended) else 0)
    return [length or 0 for length in fixed]


def _fixed(stage: Stage, epochs: int) -> int | None:
    if stage.epochs is None:
        return None
    if isinstance(stage.epochs, float):
        # A share of a short run still is an epoch.
        return max(1, round(stage.epochs * epochs))
    if stage.epochs < 1:
        raise InputError(f"stage {stage.name!r} has {stage.epochs} epochs: it needs at least 1.")
    return stage.epochs
