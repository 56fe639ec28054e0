"""Where and in what arithmetic a run computes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from kdtool.errors import InputError

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str, number: int = 0, together: int = 1) -> torch.device:
    """Return the device that ``train.device`` names; "auto" prefers CUDA, then MPS, then the CPU.

    Args:
        name: as in the recipe.
        number: which CUDA device, where several processes on a machine take one each and the name leaves it open.
        together: how many processes that is.

    Raises:
        InputError: the name is no device, or that device is not there, or two processes would have the same one.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return _own_cuda(number, together)
        name = "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device {name!r} is none: use auto, cpu, mps, cuda or cuda:N.") from error
    present = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if device.type not in present:
        raise InputError(f"device {name!r} is not supported: use auto, cpu, mps, cuda or cuda:N.")
    if not present[device.type]:
        raise InputError(f"device {name!r} is not available on this machine: use --device auto, or cpu.")
    if name == "cuda":
        return _own_cuda(number, together)
    if together > 1 and device.type != "cpu":
        _refuse_to_share(f"device {name!r} is one, and {together} processes would be on it", together)
    return device


def _own_cuda(number: int, together: int) -> torch.device:
    count = torch.cuda.device_count()
    if together > count:
        _refuse_to_share(f"{together} processes would share {count} CUDA device{'s' * (count != 1)}", together)
    return torch.device("cuda", number)


def _refuse_to_share(what: str, together: int) -> None:
    there = torch.cuda.device_count()
    use = f"--device cuda --nproc {min(together, there)}" if there > 1 else "one process"
    raise InputError(f"{what}. CUDA devices here: {there}. Use {use}, or --device cpu.")


def let_tf32(allowed: bool) -> None:
    """Let CUDA multiply and convolve fp32 in TF32, or not; other devices have no such thing."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


@contextmanager
def without_tf32() -> Iterator[None]:
    """Multiply and convolve fp32 in fp32 for as long as the body runs."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    let_tf32(False)
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def choose_kernels(deterministic: bool) -> None:
    """Let CUDA take the fastest kernel for a shape, or only those that give equal bits each time."""
    torch.backends.cudnn.benchmark = not deterministic
    torch.use_deterministic_algorithms(deterministic)
    if deterministic:
        # cuBLAS reads it as it starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


class Precision:
    """Autocast and gradient scaling for ``train.precision`` (fp32, bf16, fp16 or fp64) on a device.

    Attributes:
        dtype: of weights and inputs.
        half: what autocast computes in; None without autocast.
        int8: a frozen network's linear layers are kept in 8 bits, and computed in fp32 ("int8").
    """

    def __init__(self, name: str, device: torch.device):
        if name == "fp64" and device.type == "mps":
            raise InputError("train.precision=fp64 is not available on mps: use --device cpu.")
        self.dtype = torch.float64 if name == "fp64" else torch.float32
        self.device = device
        self.half = _AUTOCAST.get(name)
        self.int8 = name == "int8"
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")

    def forward(self) -> AbstractContextManager[object]:
        """Context of a network's forward."""
        if self.half is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.half)

    def loss(self) -> AbstractContextManager[object]:
        """Context of the losses: never half precision, in which a KL can come out negative."""
        return torch.autocast(self.device.type, enabled=False) if self.half else nullcontext()
