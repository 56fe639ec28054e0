"""The recipe's sections on the optimizer and its learning rate. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from kdtool.recipe.options import option

SCHEDULES = ("cosine", "multistep", "step", "linear", "constant")

# typing.Optional rather than "X | None": see schema.py.


@dataclass
class Optim:
    name: str = option("adamw", "optimizer, by its name in timm.optim (adamw, sgd, lamb, ...)")
    lr: Optional[float] = option(
        None,
        "peak learning rate; default: for trained weights what their task has (--dry-run tells), else 0.003 for a "
        "student and 0.001 for a teacher",
        min=0.0,
    )
    weight_decay: float = option(0.05, "weight decay; not applied to biases and norms", min=0.0)
    decay_norm_and_bias: bool = option(False, "apply weight decay to biases and norms too, as the older papers do")
    momentum: float = option(0.9, "momentum (or Adam's beta1)", min=0.0, max=1.0)
    options: dict[str, Any] = option(dict, "further arguments of the optimizer, by name")


@dataclass
class Schedule:
    name: str = option("cosine", "learning-rate schedule", choices=SCHEDULES)
    warmup_epochs: float = option(1.0, "epochs of linear warm-up from warmup_lr; at most a third of a stage", min=0.0)
    warmup_lr: float = option(1e-6, "learning rate at the start of the warm-up", min=0.0)
    min_lr: float = option(1e-6, "learning rate at the end (cosine, linear)", min=0.0)
    milestones: list[int] = option(
        [],
        "epochs, of train.epochs, after which multistep multiplies the rate by decay_rate; a stage that is shorter "
        "drops as much earlier, so that each reaches its last drop",
        min=1,
    )
    step_epochs: float = option(30.0, "epochs between the drops of step, shrunk to a stage as milestones are", min=0.01)
    decay_rate: float = option(0.1, "factor of multistep's and step's drops", min=0.0, max=1.0)
    epochs: Optional[int] = option(
        None,
        "epochs that rates, stages and what a method ramps are made for, after which each stays at its last; "
        "default: as many as are trained",
        min=1,
        late=True,
    )
