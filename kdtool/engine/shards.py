"""Networks that do not fit one device: each process holds a part of every weight, and has a block whole while it runs.

Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", VLDB 2023; here torch's
``fully_shard``. A student's gradients are averaged on their way to the process that holds the part, as they are by
data-parallel training of whole networks, and so is the optimizer's memory divided.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from kdtool.engine import tree
from kdtool.engine.job import Loaded
from kdtool.engine.processes import from_main, largest, world_size
from kdtool.engine.recompute import blocks_of


def shard(network: nn.Module, device: torch.device) -> nn.Module:
    """Divide a tapped network among the processes, in place, and return it; a single process keeps it whole.

    What lies outside of its blocks (embeddings, the head) is whole on all of them from a forward to the end of the
    backward, so that a head may be applied after the network has run.

    Args:
        network: on the CPU, or wherever it fits; a block at a time comes to the device.
        device: this process's.
    """
    if world_size() == 1 or is_sharded(network):
        return network
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    for parameter in network.parameters():
        parameter.data = parameter.data.contiguous()  # in other layouts they cannot be divided
    mesh = init_device_mesh(device.type, (world_size(),))
    for block in blocks_of(network):
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh, reshard_after_forward=False)
    return network.to(device)


def is_shard(tensor: object) -> bool:
    """Tell whether of a tensor a part alone is here."""
    if world_size() == 1:  # and torch's module need not be loaded
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def is_sharded(network: nn.Module) -> bool:
    """Tell whether a network is divided among the processes."""
    return any(map(is_shard, network.parameters()))


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor as it is, or put together from all processes' parts; all of them have to ask."""
    put_together: Tensor = tensor.full_tensor() if is_shard(tensor) else tensor  # type: ignore[attr-defined]
    return put_together


def here(tensor: Tensor) -> Tensor:
    """Return a tensor as it is, or this process's part of it, in the same memory."""
    part: Tensor = tensor.to_local() if is_shard(tensor) else tensor  # type: ignore[attr-defined]
    return part


def like(tensor: Tensor, target: Tensor) -> Tensor:
    """Return a whole tensor, equal on all processes, divided as ``target`` is."""
    if not is_shard(target) or is_shard(tensor):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    # Each takes its part of what it has: nothing is sent.
    layout: tuple[object, object] = target.device_mesh, target.placements  # type: ignore[attr-defined]
    return distribute_tensor(tensor.to(here(target).device), *layout, src_data_rank=None)  # type: ignore[arg-type]


def load_whole(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a module, divided or not, whole weights, which are equal on all processes."""
    targets = module.state_dict()
    module.load_state_dict(
        {name: like(each, targets[name]) if name in targets else each for name, each in state.items()}
    )


def total_norm(gradients: Iterable[Tensor]) -> Tensor:
    """Return the L2 norm of all gradients, those of parts counted over all processes; a scalar, whole."""
    gradients = list(gradients)
    parts = [gradient for gradient in gradients if is_shard(gradient)]
    if not parts:
        return nn.utils.get_total_norm(gradients)
    others = [gradient for gradient in gradients if not is_shard(gradient)]
    norms = [whole(nn.utils.get_total_norm(parts))] + ([nn.utils.get_total_norm(others)] if others else [])
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return norm


def clip(parameters: Sequence[nn.Parameter], largest_norm: float) -> Tensor:
    """Scale gradients down to a norm, in place; return what it was. As ``clip_grad_norm_``, for parts too."""
    if not any(map(is_shard, parameters)):
        return nn.utils.clip_grad_norm_(parameters, largest_norm)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = total_norm(gradients)
    factor = (largest_norm / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        here(gradient).mul_(factor)
    return norm


def in_step(network: nn.Module, batches: Iterable[Loaded]) -> Iterator[tuple[Loaded, bool]]:
    """Yield a process's batches, each with whether it counts.

    All processes have to run a divided network equally often: one that has no batch left is given an earlier one
    again, or, where it never had any, the first one's.
    """
    if not is_sharded(network):
        yield from ((batch, True) for batch in batches)
        return
    remaining = iter(batches)
    batch = next(remaining, None)
    spare = batch
    if largest(int(batch is None)):
        common = from_main(None if batch is None else _moved(batch, torch.device("cpu")))
        spare = batch or _moved(common, here(next(network.parameters())).device)
    while largest(int(batch is not None)):
        assert spare is not None
        yield (spare, False) if batch is None else (batch, True)
        spare, batch = batch or spare, next(remaining, None)


def _moved(loaded: Loaded, device: torch.device) -> Loaded:
    inputs, labels, index = tree.to((loaded.inputs, loaded.labels, loaded.index), device)
    taught = None if loaded.taught is None else loaded.taught.to(device)
    return replace(loaded, inputs=inputs, labels=labels, index=index, taught=taught)
