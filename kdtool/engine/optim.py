"""Optimizer and learning-rate schedule of a stage, from timm."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from kdtool.errors import InputError, did_you_mean
from kdtool.recipe.schema import Optim, Schedule


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


def build_optimizer(cfg: Optim, step: nn.Module, section: str = "optim") -> torch.optim.Optimizer:
    """Return timm's optimizer over the parameters that train.

    Args:
        cfg: which one, and how.
        step: the modules that train.
        section: the recipe's name of ``cfg``, for messages.

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
            **{**_fused(cfg.name), **cfg.options},
        )
    except Exception as error:  # whatever a constructor raises: options, a missing package, a device it needs
        raise InputError(f"{section}: {cfg.name} cannot be used with these settings: {error}") from error
    return optimizer


def _fused(name: str) -> dict[str, bool]:
    """Ask for the fused form of an optimizer, one kernel for all parameters, where it has one."""
    from timm.optim import get_optimizer_class

    try:
        arguments = inspect.signature(get_optimizer_class(name, bind_defaults=False)).parameters
    except ValueError:  # a wrapper around another one, such as lookahead_
        return {}
    return {"fused": True} if "fused" in arguments else {}


def build_schedule(cfg: Schedule, optimizer: torch.optim.Optimizer, epochs: int, steps_per_epoch: int) -> Any:
    """Return timm's scheduler, to be asked with ``step_update(step)``: the rate is a function of the step alone.

    Milestones and periods count from the start of the stage.
    """
    from timm.scheduler import create_scheduler_v2

    kind = {"linear": "poly", "constant": "step"}.get(cfg.name, cfg.name)
    decay_rate = 1.0 if cfg.name in ("linear", "constant") else cfg.decay_rate
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched=kind,
        num_epochs=epochs,
        decay_epochs=cfg.step_epochs,
        decay_milestones=list(cfg.milestones),
        decay_rate=decay_rate,
        min_lr=min(cfg.min_lr, min(group["lr"] for group in optimizer.param_groups)),
        warmup_lr=cfg.warmup_lr,
        warmup_epochs=min(cfg.warmup_epochs, epochs / 3),
        step_on_epochs=False,
        updates_per_epoch=steps_per_epoch,
    )
    return scheduler
