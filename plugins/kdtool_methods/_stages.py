"""A first stage, and what a user may say of it: how long it is, and whether it has a rate and a schedule of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Optional

from kdtool import Batch, Stage, option
from kdtool.method import Terms
from kdtool.recipe.rates import SCHEDULES


@dataclass
class InitOptions:
    """Options of a stage "init" that trains the student; ``Config`` of a method that has one."""

    init_epochs: Optional[int] = option(None, "epochs of stage init, out of train.epochs; default: 30% of them", min=1)
    init_on_top: bool = option(False, "let the epochs of stage init come on top of train.epochs")
    init_lr: Optional[float] = option(None, "peak learning rate of stage init; default: optim.lr", min=0.0)
    init_schedule: Optional[str] = option(
        None, "schedule of stage init; default: schedule.name, shrunk to the stage", choices=SCHEDULES
    )


INIT_SHARE = 0.3  # of train.epochs, where init_epochs is not given


def init_stage(loss: Callable[[Batch], Terms], cfg: Any) -> Stage:
    """Return the stage "init" of a loss, without hard labels.

    Args:
        loss: batch -> weighted scalar terms by name.
        cfg: ``InitOptions``.
    """
    return Stage(
        "init",
        loss,
        epochs=cfg.init_epochs or INIT_SHARE,
        task_weight=0.0,
        on_top=cfg.init_on_top,
        lr=cfg.init_lr,
        schedule=cfg.init_schedule,
    )
