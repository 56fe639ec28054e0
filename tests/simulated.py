"""An accelerator that is not there: tensors that say they are on "cuda" or "mps", and compute on the CPU.

Numbers are real, so what is trained on it can be compared bit for bit with the CPU. Python sees the device's name,
torch's own code its meta device. It refuses what the real ones refuse: operations on tensors of both sides, and on MPS
float64. It counts what a host would wait for. Streams, the allocator and the compiler are not in it: what only a
card can show is in ``tests/engine/test_cuda.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
import torch._dynamo  # asks for what is there as it is imported: of the real thing
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.half_products import IN_HALF, computed
from tests.recorded import Graph, Recording

_READS = {"_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive",
          "_linalg_eigh", "_linalg_svd", "linalg_matrix_exp"}  # fmt: skip
"""Operations whose result the host waits for."""

_BY_INDEX = {"index", "index_put", "index_put_", "_index_put_impl_"}

_FROM_BOTH = {"copy_", "_to_copy", "set_", *_BY_INDEX}
"""Operations that take tensors of the CPU beside those of the device."""


class OnDevice(Tensor):
    """A tensor of the simulated device; ``inner`` is the CPU's."""

    inner: Tensor
    name = "cuda"  # of the device that is there at present

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnDevice:
        made: OnDevice = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device("meta"),
        )
        return made

    def __init__(self, inner: Tensor):
        self.inner = inner

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], *_: object) -> OnDevice:
        return OnDevice(inner["inner"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device(self.name, 0)

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return self.name == "cuda"

    @property
    def is_mps(self) -> bool:  # type: ignore[override]
        return self.name == "mps"

    @property
    def is_meta(self) -> bool:  # type: ignore[override]
        return False

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def record_stream(self, stream: Any) -> None:
        """Do nothing: memory is handed out again by the CPU's rules. A tensor on the CPU refuses."""

    def __repr__(self, **_: Any) -> str:
        return f"OnDevice({self.inner!r})"


@dataclass
class Device:
    """The simulated device.

    Attributes:
        name: "cuda" or "mps".
        free: bytes of its memory, for those who ask.
        waits: how often the host waited, by operation; "to device" are copies of memory that is not pinned, "event"
            are those that were not done when the host asked.
        operations: how many were started.
        room: samples, or whatever comes first, that an operation may have; more find no memory.
        clones: shapes of what was cloned, in order.
        refusing: the host may not wait: CUDA's own debug mode for that.
        pinned: memory that was pinned.
        under_way: copies from there, each the CPU's tensor that it fills and the one that it reads. They are made as
            late as can be: when the device computes with them, or the host waits for them.
    """

    name: str
    free: int = 1 << 34
    waits: Counter[str] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    room: int | None = None
    clones: list[tuple[int, ...]] = field(default_factory=list)
    refusing: bool = False
    pinned: list[Tensor] = field(default_factory=list)
    under_way: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def __call__(self, number: int = 0) -> torch.device:
        return torch.device(self.name, number)

    def wait(self, what: str) -> None:
        """Let the host wait."""
        self.waits[what] += 1
        if self.refusing:
            raise RuntimeError(f"called a synchronizing CUDA operation: {what}")

    def refuse_waits(self, mode: str) -> None:
        self.refusing = mode == "error"

    def is_pinned(self, tensor: Tensor) -> bool:
        return any(_memory(tensor) == _memory(each) for each in self.pinned)

    def finish(self, copies: list[tuple[Tensor, Tensor]]) -> None:
        """Make copies that are under way."""
        for copy in copies:
            if any(copy is each for each in self.under_way):
                copy[0].copy_(copy[1])
        self.under_way = [each for each in self.under_way if not any(each is copy for copy in copies)]


_present: list[Device] = []


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _map(function: Callable[[Any], Any], value: Any) -> Any:
    """Return what a function makes of the tensors, names and numbers in lists and dictionaries."""
    if isinstance(value, dict):
        return {key: _map(function, each) for key, each in value.items()}
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        made = [_map(function, each) for each in value]
        return made if isinstance(value, list) else type(value)(*made) if hasattr(value, "_fields") else tuple(made)
    return function(value)


def _tensors(*values: Any) -> list[Tensor]:
    found: list[Tensor] = []
    _map(lambda each: found.append(each) if isinstance(each, Tensor) else None, values)
    return found


def _run(func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
    device, name = _present[-1], func.overloadpacket.__name__
    leaves = _tensors(args, kwargs)
    theirs = [leaf for leaf in leaves if isinstance(leaf, OnDevice)]
    wanted = kwargs.get("device")
    to_device = bool(theirs) if wanted is None else torch.device(wanted).type == "meta"
    if theirs:
        _refuse_mixed(name, [leaf for leaf in leaves if not isinstance(leaf, OnDevice)])
    if theirs or to_device:
        _count(device, name, args, leaves, theirs, to_device, bool(kwargs.get("non_blocking")))
    used = {_memory(leaf.inner) for leaf in theirs} if device.under_way else set()
    device.finish([copy for copy in device.under_way if _memory(copy[0]) in used])
    late = to_device and kwargs.get("non_blocking") and not theirs and device.is_pinned(leaves[0])
    wrappers = {id(leaf.inner): leaf for leaf in theirs}
    plain_args, plain_kwargs = _map(lambda x: x.inner if isinstance(x, OnDevice) else x, (args, dict(kwargs)))
    if wanted is not None:
        plain_kwargs["device"] = torch.device("cpu")
        if to_device or theirs:
            plain_kwargs.pop("non_blocking", None)
            plain_kwargs["pin_memory"] = False if "pin_memory" in plain_kwargs else None
            plain_kwargs = {key: value for key, value in plain_kwargs.items() if value is not None}
    found = computed(func, plain_args, plain_kwargs)
    if not to_device and not (theirs and wanted is None):
        return found
    if late:
        device.under_way.append((found, leaves[0]))
    for leaf in _tensors(found) if device.name == "mps" else ():
        if leaf.dtype in (torch.float64, torch.complex128):
            raise TypeError(f"{name}: MPS has no float64.")

    def out(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) in wrappers:
            return wrappers[id(value)]
        with torch.inference_mode(value.is_inference()):  # a view is of the kind that its tensor is
            return OnDevice(value)

    # In place on a tensor of the CPU, from one of the device, gives the CPU's.
    if args and isinstance(args[0], Tensor) and not isinstance(args[0], OnDevice) and found is args[0]:
        return found
    return _map(out, found)


def _refuse_mixed(name: str, ours: list[Tensor]) -> None:
    # Lone numbers of the CPU are handed to a kernel by value.
    if name not in _FROM_BOTH and any(leaf.ndim for leaf in ours):
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, found some on the CPU.")


def _count(
    device: Device,
    name: str,
    args: Any,
    leaves: list[Tensor],
    theirs: list[OnDevice],
    to_device: bool,
    not_waiting: bool,
) -> None:
    device.operations[name] += 1
    if name == "clone":
        device.clones.append(tuple(args[0].shape))
    if device.room is not None and any(leaf.ndim and len(leaf) > device.room for leaf in theirs):
        raise torch.OutOfMemoryError(f"{name}: no room")
    if name in _READS or (name == "_to_copy" and theirs and not to_device):
        device.wait(name if name in _READS else "to host")
    elif name == "copy_" and isinstance(args[1], OnDevice) and not isinstance(args[0], OnDevice):
        device.wait("to host")
    elif name in _BY_INDEX and any(leaf.dtype == torch.bool for leaf in _tensors(args[1])):
        device.wait("boolean index")
    if name in _FROM_BOTH and to_device:
        there = [leaf for leaf in leaves if not isinstance(leaf, OnDevice)]
        if there and not (not_waiting and all(map(device.is_pinned, there))):
            device.wait("to device")


class _Operations(TorchDispatchMode):
    """What makes tensors of the device without having one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.is_inference_mode_enabled():
            # There what is made of others comes whole, such as "to"; elsewhere it is taken apart before.
            with self:
                found = func.decompose(*args, **(kwargs or {}))
            if found is not NotImplemented:
                return found
        return _run(func, args, kwargs or {})


class _Names(TorchFunctionMode):
    """Has torch's own code see its meta device where Python says "cuda" or "mps"; and computes as autocast does."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        device, kwargs = _present[-1], dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and _as_meta(kwargs.get("device"), device) != kwargs.get("device"):
            kwargs.pop("device")
            # Made on meta it would hold no numbers. The name is of no use here, where no mode is on that would see it.
            return func(*args, **kwargs).to("meta")
        if func is torch.empty and kwargs.pop("pin_memory", False):
            device.pinned.append(func(*args, **kwargs))
            return device.pinned[-1]
        if func is Tensor.is_pinned:
            return device.is_pinned(args[0])
        takes_names = "device" in kwargs or func in (Tensor.to, Tensor.cuda, torch.device)
        if func is Tensor.cuda:
            func, args = Tensor.to, (args[0], "cuda")
        if takes_names and func is not torch.device:
            (args, kwargs) = _map(lambda x: _as_meta(x, device), (args, kwargs))
        if func in IN_HALF and torch.is_autocast_enabled(device.name):
            half = torch.get_autocast_dtype(device.name)
            args, kwargs = _map(
                lambda x: x.to(half) if isinstance(x, OnDevice) and x.dtype == torch.float32 else x, (args, kwargs)
            )
        return func(*args, **kwargs)


def _as_meta(value: Any, device: Device) -> Any:
    if isinstance(value, torch.device):
        return torch.device("meta") if value.type == device.name else value
    named = isinstance(value, str) and value.partition(":")[0] == device.name
    return torch.device("meta") if named else value


class Stream:
    """A CUDA stream that has nothing to wait for."""

    made = 0

    def __init__(self, device: Any = None, **_: Any):
        Stream.made += 1

    def wait_stream(self, other: Any) -> None:
        """Do nothing."""

    def wait_event(self, event: Any) -> None:
        """Do nothing."""


class Event:
    """A CUDA event, behind the copies that were under way as it was recorded."""

    def __init__(self) -> None:
        self.copies: list[tuple[Tensor, Tensor]] = []

    def record(self, stream: Any = None) -> None:
        self.copies = list(_present[-1].under_way)

    def synchronize(self) -> None:
        device = _present[-1]
        if any(copy is each for copy in self.copies for each in device.under_way):
            device.wait("event")
        device.finish(self.copies)


_generators = torch.Generator


class _Generator:
    """Makes generators of the CPU; a class, as that which it stands for."""

    def __new__(cls, device: Any = "cpu") -> Any:
        return _generators("cpu")


def _host_side(device: Device) -> dict[str, Any]:
    """Return what ``torch.cuda`` answers."""
    stream = Stream()
    return {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "is_bf16_supported": lambda *_: True,
        "mem_get_info": lambda *_: (device.free, device.free),
        "max_memory_allocated": lambda *_: 0,
        "empty_cache": lambda: None,
        "synchronize": lambda *_: None,
        "set_sync_debug_mode": device.refuse_waits,
        "memory_reserved": lambda *_: 0,
        "set_device": lambda *_: None,
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "set_rng_state": lambda state, *_: torch.set_rng_state(state),
        "Stream": Stream,
        "Event": Event,
        "stream": lambda _: nullcontext(),
        "current_stream": lambda *_: stream,
        "get_device_name": lambda *_: "simulated",
        "is_current_stream_capturing": lambda: False,
        "CUDAGraph": Graph,
        "graph": Recording,
    }


def _loaded(load: Callable[..., None]) -> Callable[..., None]:
    """Return what loads a state into a module by copying, as on a real device."""

    def copied(self: nn.Module, *args: Any) -> None:
        with patch.object(torch.__future__, "_swap_module_params_on_conversion", False):
            load(self, *args)

    return copied


@contextmanager
def simulated(name: str = "cuda") -> Iterator[Device]:
    """Have a device of this name ("cuda" or "mps") for as long as the body runs.

    Code is told of it as of a real one: by ``torch.cuda`` and ``torch.backends.mps``.
    """
    device = Device(name)
    with ExitStack() as stack:
        _present.append(device)
        stack.callback(_present.pop)
        stack.enter_context(patch.object(OnDevice, "name", name))
        stack.enter_context(patch.object(torch, "Generator", _Generator))
        # A parameter stays the same object on its way there and back, as on a real device: tied weights stay tied.
        stack.enter_context(patch.object(torch.__future__, "_swap_module_params_on_conversion", True))
        stack.enter_context(patch.object(nn.Module, "_load_from_state_dict", _loaded(nn.Module._load_from_state_dict)))
        if name == "cuda":
            stack.enter_context(patch.multiple(torch.cuda, **_host_side(device)))
            # Recurrent layers ask it; it would start the real CUDA to answer.
            stack.enter_context(patch.object(torch.backends.cudnn, "is_acceptable", lambda _: False))
            stack.enter_context(
                patch("torch.amp.grad_scaler.amp_definitely_not_available", lambda *_: False, create=True)
            )
            # Optimizers ask it whether a graph is being captured.
            stack.enter_context(patch.object(torch.accelerator, "is_available", lambda: False))
        else:
            stack.enter_context(patch.object(torch.backends.mps, "is_available", lambda: True))
        stack.enter_context(_Names())
        stack.enter_context(_Operations())
        yield device
