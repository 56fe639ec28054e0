"""Optimizer and learning-rate schedule of a stage, from timm."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from kdtool.engine.shards import is_sharded
from kdtool.errors import InputError, did_you_mean
from kdtool.method import Stage
from kdtool.recipe.rates import SCHEDULES, Optim, Schedule


class _Trainables(nn.Module):
    """The step's modules under one roof, forwarding each network's own list of parameters without weight decay."""

    def __init__(self, step: nn.Module):
        super().__init__()
        self.step = step

    def no_weight_decay(self) -> set[str]:
        names = set()
        for prefix, module in self.named_modules():
            if module is not self and hasattr(module, "no_weight_decay"):
                names |= {f"{prefix}.{name}" for name in module.no_weight_decay()}
        return names


def build_optimizer(
    cfg: Optim, step: nn.Module, section: str = "optim", recorded: bool = False
) -> torch.optim.Optimizer:
    """Return timm's optimizer over the parameters that train.

    Args:
        cfg: which one, and how.
        step: the modules that train.
        section: the recipe's name of ``cfg``, for messages.
        recorded: its steps are to be recorded as a CUDA graph.

    Raises:
        InputError: unknown name, or options that this optimizer does not take.
    """
    from timm.optim import create_optimizer_v2, list_optimizers

    if cfg.name.split("_")[-1].lower() not in list_optimizers() and cfg.name.lower() not in list_optimizers():
        raise InputError(f"{section}.name={cfg.name} is no timm optimizer. {did_you_mean(cfg.name, list_optimizers())}")
    try:
        optimizer: torch.optim.Optimizer = create_optimizer_v2(
            _Trainables(step),
            opt=cfg.name,
            lr=cfg.lr,
            weight_decay=cfg.weight_decay,
            momentum=cfg.momentum,
            filter_bias_and_bn=not cfg.decay_norm_and_bias,
            **{**_form(cfg.name, step, recorded), **cfg.options},
        )
    except Exception as error:  # whatever a constructor raises: options, a missing package, a device it needs
        raise InputError(f"{section}: {cfg.name} cannot be used with these settings: {error}") from error
    if getattr(optimizer, "is_second_order", False):
        raise InputError(
            f"{section}.name={cfg.name} differentiates gradients again, which a step here does not: use another "
            "optimizer, such as adamw."
        )
    return optimizer


def _form(name: str, step: nn.Module, recorded: bool) -> dict[str, bool]:
    """Ask for the fused form of an optimizer, one kernel for all parameters, where it has one.

    Not for weights that processes have divided: torch has it for some optimizers' only. Of torch's other ones those
    that are recorded count their steps on the device.
    """
    from timm.optim import get_optimizer_class

    try:
        made: Any = get_optimizer_class(name, bind_defaults=False)
    except ValueError:  # a wrapper around another one, such as lookahead_
        return {}
    arguments = inspect.signature(made).parameters
    if "fused" in arguments:
        return {} if is_sharded(step) else {"fused": True}
    on_cuda = any(parameter.is_cuda for parameter in step.parameters())
    of_torch = "capturable" in arguments and made.__module__.startswith("torch.")
    return {"capturable": True} if recorded and on_cuda and of_torch else {}


def begin_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Let momenta begin at zero, where a first step may be withheld by a flag on the device.

    torch's fused SGD takes memory as it comes for them, and counts on that very step to fill it.
    """
    for group in optimizer.param_groups:
        if group.get("fused") and group.get("momentum") and not group.get("dampening"):
            for parameter in group["params"]:
                optimizer.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))


def settings_of(stage: Stage, optim: Optim, schedule: Schedule) -> tuple[Optim, Schedule]:
    """Return a stage's optimizer and schedule: the run's, but for what the stage says itself.

    Raises:
        InputError: there is no such schedule.
    """
    if stage.lr is not None:
        optim = replace(optim, lr=stage.lr)
    if stage.schedule is not None:
        if stage.schedule not in SCHEDULES:
            valid = ", ".join(SCHEDULES)
            raise InputError(f"stage {stage.name!r} has the schedule {stage.schedule!r}; valid: {valid}.")
        schedule = replace(schedule, name=stage.schedule)
    return optim, schedule


def build_schedule(
    cfg: Schedule, optimizer: torch.optim.Optimizer, epochs: int, steps_per_epoch: int, budget: int
) -> Any:
    """Return timm's scheduler, to be asked with ``step_update(step)``: the rate is a function of the step alone.

    Milestones and periods are epochs of the whole ``budget`` and shrink with the stage: of 240 epochs a stage that has
    192 drops at 120 where the run would at 150. So each stage reaches its last drop.

    Args:
        cfg: which schedule.
        optimizer: whose rates it sets.
        epochs: of the stage.
        steps_per_epoch: updates of an epoch.
        budget: the epochs of all stages together, of ``schedule.epochs`` or ``train.epochs``.
    """
    from timm.scheduler import create_scheduler_v2

    kind = {"linear": "poly", "constant": "step"}.get(cfg.name, cfg.name)
    decay_rate = 1.0 if cfg.name in ("linear", "constant") else cfg.decay_rate
    share = epochs / budget
    # timm lets a milestone count from one update before its place on: the last one of the epoch before.
    milestones = [(round(each * share * steps_per_epoch) + 0.5) / steps_per_epoch for each in cfg.milestones]
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched=kind,
        num_epochs=epochs,
        decay_epochs=cfg.step_epochs * share,
        decay_milestones=milestones,
        decay_rate=decay_rate,
        min_lr=min(cfg.min_lr, min(group["lr"] for group in optimizer.param_groups)),
        warmup_lr=cfg.warmup_lr,
        warmup_epochs=min(cfg.warmup_epochs, epochs / 3),
        step_on_epochs=False,
        updates_per_epoch=steps_per_epoch,
    )
    return scheduler
