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
        scheduled: how many its learning rates, and what its method ramps, are made for; ``epochs`` but where the run is
            longer or shorter than its schedule.
        first_epoch: the student's epochs before it, which number views and orders; 0 where the student is not trained.
        selects: True for the last stage, whose epochs compete for the best.
    """

    stage: Stage
    epochs: int
    first_epoch: int
    selects: bool
    scheduled: int

    def progress(self, at: int, steps: int) -> float:
        """Return the share in [0, 1) that is done of the stage at its step ``at``, with ``steps`` in an epoch."""
        total = self.scheduled * steps
        return min(at, total - 1) / total


def share_of(stage: Stage) -> float:
    """Return the share of a stage's batches that the student writes, as the method says it now."""
    return stage.on_policy() if callable(stage.on_policy) else stage.on_policy


def hard_labels_only(batch: Batch) -> Terms:
    """The loss of a run without a method: nothing beyond the task's own."""
    return {}


def plan_stages(
    method: Method | None, epochs: int, task_weight: float | None, scheduled: int | None = None
) -> list[Planned]:
    """Share the student's budget of ``epochs`` among the stages that train it; others, and ``on_top``, are extra.

    Args:
        method: None is one stage on hard labels.
        epochs: ``train.epochs``.
        task_weight: replaces the last stage's weight of the hard-label loss.
        scheduled: ``schedule.epochs``: so many are shared, and the last stage gets what ``epochs`` has beyond, or less.

    Raises:
        InputError: the stages do not fit the budget, or name themselves alike.
    """
    stages = method.stages() if method is not None else [Stage("train", hard_labels_only)]
    if task_weight is not None:
        stages[-1] = replace(stages[-1], task_weight=task_weight)
    names = [stage.name for stage in stages]
    if len(set(names)) < len(names):
        raise InputError(f"the method's stages share a name: {names}.")
    shared = scheduled or epochs
    lengths = _lengths(stages, shared)
    planned, before = [], 0
    for number, (stage, length) in enumerate(zip(stages, lengths, strict=True)):
        trains, last = "student" in stage.trains, number == len(stages) - 1
        own = length + (epochs - shared if last else 0)
        if own < 1:
            raise InputError(
                f"the stages before {stage.name!r} end after epoch {before} of schedule.epochs={shared}: "
                f"train.epochs={epochs} leaves nothing for it. Raise --epochs."
            )
        planned.append(Planned(stage, own, before if trains else 0, last, length))
        before += own if trains else 0
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
