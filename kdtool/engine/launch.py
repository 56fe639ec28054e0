"""How a stage's step is called: as it is, compiled, or averaging its gradients over processes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kdtool.engine.dry import kept_buffers
from kdtool.engine.processes import largest, world_size
from kdtool.engine.shards import is_sharded
from kdtool.engine.step import Step
from kdtool.errors import InputError


def callable_step(step: Step, mode: str, device: torch.device, try_out: Callable[[Any], Tensor], say: Any) -> Any:
    """Return what runs a step that is frozen for its stage.

    Args:
        step: student, method and peers.
        mode: "off", or a mode of ``torch.compile``; where that fails, the step runs as it is, with a word.
        device: where it runs.
        try_out: gives the loss of a first batch through the callable, to compile forward and backward.
        say: told why it is not compiled.
    """
    call: Any = step
    if mode != "off":
        call = _compiled(step, mode, try_out, say)
    if world_size() == 1 or is_sharded(step):
        return call
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer torch renames the argument
        # Buffers stay each process's own: a method's banks are equal everywhere, as they are fed gathered batches.
        return DistributedDataParallel(call, [device] if device.type == "cuda" else None, broadcast_buffers=False)


def as_tensors(epoch: int, progress: float, like: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return a step's epoch and progress as compiled code takes them: for plain numbers it would be compiled anew.

    Args:
        epoch, progress: as in ``kdtool.method.Batch``.
        like: on whose device.
        dtype: of the progress.
    """
    return like.new_full((), epoch, dtype=torch.int64), like.new_full((), progress, dtype=dtype)


def share_norms(step: Step, device: torch.device) -> None:
    """Let the student's batch norms see the samples of all processes.

    Raises:
        InputError: not on CUDA, where torch has no such norm.
    """
    if device.type != "cuda":
        raise InputError(f"parallel.sync_bn needs CUDA; the run is on {device}. Leave it out.")
    if world_size() > 1:
        step.student = with_shared_norms(step.student)


def with_shared_norms(network: nn.Module) -> nn.Module:
    """Return a network whose batch norms see the samples of all processes, hooks and all: taps are hooks."""
    from timm.layers import convert_sync_batchnorm

    before = dict(network.named_modules())
    network = convert_sync_batchnorm(network)
    for name, module in network.named_modules():
        if module is not before[name]:
            vars(module).update({kept: value for kept, value in vars(before[name]).items() if "_hooks" in kept})
    return network


def _compiled(step: Step, mode: str, try_out: Callable[[Any], Tensor], say: Any) -> Any:
    # Code compiled for another stage or method must not count against this one's limit of versions.
    torch._dynamo.reset()
    call = torch.compile(step, mode=mode)
    problem = ""
    try:
        with kept_buffers(step):
            try_out(call).backward()
    except Exception as error:  # whatever a compiler, or the C++ compiler behind it, may raise
        problem = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    for parameter in step.parameters():
        parameter.grad = None
    if largest(int(bool(problem))):
        say(f"stage {step.stage.name if step.stage else ''}: torch.compile failed ({problem}); going on without it")
        torch._dynamo.reset()
        return step
    return call
