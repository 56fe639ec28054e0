"""Weights by name: their digest, and the file that ships."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from kdtool.system.disk import write_whole

WEIGHTS = "model.safetensors"


def digest(state: Mapping[str, Tensor]) -> str:
    """Return the sha256 of tensors by name: names, types, shapes and values."""
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def write_weights(folder: Path, state: Mapping[str, Tensor], beside: Mapping[str, str]) -> Path:
    """Write ``model.safetensors`` and texts beside it into a folder, and return the weights' path.

    Equal inputs give equal bytes. Each file is written aside and renamed, so a killed process leaves no half file.

    Args:
        folder: made where it does not exist; other files in it stay.
        state: the weights by name.
        beside: texts by file name.

    Raises:
        RunError: they cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Copies, because safetensors refuses tensors that share memory, and contiguous, whatever layout training used.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in sorted(state.items())}
    for name, text in beside.items():
        write_whole(folder / name, text)
    write_whole(folder / WEIGHTS, save(tensors, {"format": "pt"}))
    return folder / WEIGHTS
