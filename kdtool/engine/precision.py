"""Where and in what arithmetic a run computes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from kdtool.errors import InputError

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str, number: int = 0) -> torch.device:
    """Return the device that ``train.device`` names; "auto" prefers CUDA, then MPS, then the CPU.

    Args:
        name: as in the recipe.
        number: which CUDA device, where several processes on a machine take one each and the name leaves it open.

    Raises:
        InputError: the name is no device, or that device is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", number % torch.cuda.device_count())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
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
    return torch.device("cuda", number % torch.cuda.device_count()) if name == "cuda" else device


def let_tf32(allowed: bool) -> None:
    """Let CUDA multiply and convolve fp32 in TF32, or not; other devices have no such thing."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


class Precision:
    """Autocast and gradient scaling for ``train.precision`` (fp32, bf16, fp16 or fp64) on a device.

    Attributes:
        dtype: of weights and inputs.
        half: what autocast computes in; None without autocast.
    """

    def __init__(self, name: str, device: torch.device):
        if name == "fp64" and device.type == "mps":
            raise InputError("train.precision=fp64 is not available on mps: use --device cpu.")
        self.dtype = torch.float64 if name == "fp64" else torch.float32
        self.device = device
        self.half = _AUTOCAST.get(name)
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")

    def forward(self) -> AbstractContextManager[object]:
        """Context of a network's forward."""
        if self.half is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.half)

    def loss(self) -> AbstractContextManager[object]:
        """Context of the losses: never half precision, in which a KL can come out negative."""
        return torch.autocast(self.device.type, enabled=False) if self.half else nullcontext()
