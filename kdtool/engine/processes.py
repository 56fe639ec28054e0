"""Several processes as one: who is who, what all agree on, and outputs gathered with gradient.

``torchrun`` or ``kdtool run --nproc`` starts them; each joins by the environment variables that torchrun sets. Rank 0
alone writes files and speaks.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from kdtool.engine.precision import pick_device
from kdtool.errors import InputError, KdtoolError, RunError
from kdtool.system.parallel import launched

PATIENCE = timedelta(hours=4)
"""How long a process waits for the others, who may be waiting for a teacher that another run trains."""

NCCL_PATIENCE = timedelta(minutes=10)
"""How long a step on CUDA waits for the others: nobody trains a teacher inside one, or writes a checkpoint."""

_POLL_S = 0.05


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Join the processes that were started together, where there are several.

    Raises:
        InputError: the environment does not tell who is who.
        RunError: not all of them have come, or one has ended.
    """
    if not launched() or world_size() > 1:
        yield
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise InputError(f"WORLD_SIZE is set but {', '.join(missing)} is not: start by torchrun or --nproc.")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if sys.platform == "linux" and os.environ["MASTER_ADDR"] in ("127.0.0.1", "localhost"):
        # A machine's own name may resolve to an address that it does not have.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    # Small agreements and objects go over gloo on the CPU, so that they wait for no kernel.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if dist.is_torchelastic_launched():
        store, number, count = next(rendezvous("env://", timeout=PATIENCE))
        own = dist.PrefixStore(_attempt(store, number, count), store)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=own, rank=number, world_size=count, timeout=PATIENCE)
    else:
        dist.init_process_group(backend, timeout=PATIENCE)
    if device.type == "cuda":
        dist.group.WORLD._get_backend(device)._set_default_timeout(NCCL_PATIENCE)  # type: ignore[union-attr]
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, dist.DistError) or "/gloo/" in str(error)
        if lost and not isinstance(error, KdtoolError):
            raise RunError("another process of this run has ended: see what it says.") from error
        raise
    finally:
        dist.destroy_process_group()


def _attempt(store: Any, number: int, count: int) -> str:
    """Return a name for this start of the processes, made by rank 0.

    torchrun's store outlives an elastic restart and still holds the addresses of the dead, and the number of restarts
    may differ between machines. So each process asks under a name of its own, which no earlier answer can be meant for.
    """
    mine, until = uuid.uuid4().hex, time.monotonic() + PATIENCE.total_seconds()
    if number > 0:
        store.set(f"kdtool/asks/{number}", mine)
        attempt: str = store.get(f"kdtool/answer/{mine}").decode()
        store.add(f"kdtool/heard/{attempt}", 1)
        return attempt
    while store.add(f"kdtool/heard/{mine}", 0) < count - 1:
        for other in range(1, count):
            if store.check([f"kdtool/asks/{other}"]):
                store.set(f"kdtool/answer/{store.get(f'kdtool/asks/{other}').decode()}", mine)
        if time.monotonic() > until:
            raise RunError(f"of {count} processes not all have come: see what the others say.")
        time.sleep(_POLL_S)
    return mine


def world_size() -> int:
    """Return how many processes train together; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def local_rank() -> int:
    """Return this process's number on its machine, from 0: which device is its own."""
    return int(os.environ.get("LOCAL_RANK", "0")) if launched() else 0


def own_device(name: str) -> torch.device:
    """Return this process's device, as ``pick_device`` picks it among the processes on its machine."""
    together = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if launched() else 1
    return pick_device(name, local_rank(), together)


def is_main() -> bool:
    """Return whether this process is the one that writes files and speaks."""
    return rank() == 0


def largest(value: int) -> int:
    """Return the largest of the processes' values, on all of them."""
    if world_size() == 1:
        return value
    shared = torch.tensor(value)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return int(shared)


def from_main(value: Any) -> Any:
    """Return rank 0's plain value or nested tensors on every process; what the others give is not looked at."""
    if world_size() == 1:
        return value
    box = [value if is_main() else None]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def from_all(value: Any) -> list[Any]:
    """Return every process's value, in rank order, on all of them."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def copy_from_main(module: nn.Module) -> None:
    """Make a module's parameters and buffers those of rank 0, but for what is divided among the processes."""
    if world_size() > 1:
        for tensor in module.state_dict().values():
            if not hasattr(tensor, "full_tensor"):  # of which each process has its own part
                dist.broadcast(tensor, src=0)


def mean_over_processes(values: Tensor) -> Tensor:
    """Return the mean of the processes' tensors, on all of them."""
    if world_size() > 1:
        values = values.clone()
        dist.all_reduce(values)
        values /= world_size()
    return values


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace gradients by their means over the processes; a process that has none counts as zeros."""
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        by_type.setdefault(parameter.grad.dtype, []).append(parameter.grad)
    for gradients in by_type.values():
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients]) / world_size()
        dist.all_reduce(flat)
        parts = flat.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def wait_for_all() -> None:
    """Return once every process is here."""
    if world_size() > 1:
        largest(0)


# --- outputs ------------------------------------------------------------------------------------------------------


def gather(tensor: Tensor) -> Tensor:
    """Return (world·B, ...) of every process's (B, ...), in rank order, equal on all of them; with gradient.

    Every process computes the same loss from it, and DDP averages their gradients: to make that average the gradient
    of the one loss, backward sums what all processes send to a sample's owner.
    """
    if world_size() == 1:
        return tensor
    if not tensor.requires_grad:
        return _collect(tensor)
    gathered: Tensor = _Gather.apply(tensor)
    return gathered


def _collect(tensor: Tensor) -> Tensor:
    tensor = tensor.contiguous()
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor)
    return torch.cat(parts)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.count = len(tensor)
        return _collect(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        whole = gradients[0].contiguous().clone()
        dist.all_reduce(whole)
        start = dist.get_rank() * ctx.count
        return whole[start : start + ctx.count]
