"""A CUDA graph that is not there: it records operations on tensors, and does them again on the same ones.

What holds for the real one holds here. While it records nothing is computed: what was written to is put back, and so
is the generator. It knows tensors by their place alone, and nothing of Python runs again. It refuses to read, to copy
between host and device, and to compute on the host.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READS = {"_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive",
         "_linalg_eigh"}  # fmt: skip

_SILENT = {"native_batch_norm": ("running_mean", "running_var"), "cudnn_batch_norm": ("running_mean", "running_var")}
"""What operations write to without saying so in their schema."""


class Graph:
    """Stands for ``torch.cuda.CUDAGraph``."""

    replays = 0

    def __init__(self) -> None:
        self.operations: list[tuple[Any, Any, Any, list[Any]]] = []

    @torch.inference_mode()
    def replay(self) -> None:
        """Do what was recorded again."""
        Graph.replays += 1
        for func, args, kwargs, made in self.operations:
            found = _leaves(func(*args, **kwargs))
            for place, tensor in zip(made, found, strict=True):
                if place is not None and place is not tensor:
                    place.copy_(tensor)


class Recording(TorchDispatchMode):
    """Stands for the context ``torch.cuda.graph``."""

    def __init__(self, graph: Graph, **_: Any):
        super().__init__()
        self.graph = graph
        self.own: list[Tensor] = []  # made here; kept alive, since an id is unique only among the living
        self.written: dict[int, tuple[Tensor, Tensor]] = {}
        self.generator = torch.get_rng_state()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        given = _leaves((args, kwargs))
        if name in READS:
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        if any(each.device.type == "cpu" and each.ndim for each in given):
            raise RuntimeError(f"operation not permitted when stream is capturing: {name} of the host's memory")
        own, writes = {id(each) for each in self.own}, False
        silently = _SILENT.get(name, ())
        for schema, value in [*zip(func._schema.arguments, args, strict=False), *self._named(func, kwargs)]:
            if schema.name in silently or (schema.alias_info is not None and schema.alias_info.is_write):
                writes = writes or schema.alias_info is not None
                for tensor in _leaves(value):
                    if id(tensor) not in own and id(tensor) not in self.written:
                        self.written[id(tensor)] = tensor, tensor.detach().clone()
        found = func(*args, **kwargs)
        made = _leaves(found)
        if any(each.device.type == "cpu" for each in made):
            raise RuntimeError(f"{name}: computed on the host, and not again when the graph is replayed")
        self.own += [each for each in made if not any(each is other for other in given)]
        aliased = any(value.alias_info is not None for value in func._schema.returns)
        # A view is of the same memory whenever it was made; some operations give one or a copy, as it comes.
        views = aliased and {_memory(each) for each in made} <= {_memory(each) for each in given}
        if writes or not views:
            self.graph.operations.append((func, args, kwargs, [None if views else each for each in made]))
        return found

    @staticmethod
    def _named(func: Any, kwargs: dict[str, Any]) -> list[tuple[Any, Any]]:
        return [(each, kwargs[each.name]) for each in func._schema.arguments if each.name in kwargs]

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        with torch.no_grad():
            for tensor, content in reversed(self.written.values()):
                tensor.copy_(content)
        torch.set_rng_state(self.generator)


def _memory(tensor: Any) -> int:
    address: int = getattr(tensor, "inner", tensor).untyped_storage().data_ptr()
    return address


def _leaves(value: Any) -> list[Any]:
    return [each for each in tree_leaves(value) if isinstance(each, Tensor)]
