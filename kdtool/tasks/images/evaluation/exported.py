"""Exported files as networks for images: ONNX through onnxruntime, torch.export programs, OpenVINO's graphs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdtool.errors import InputError
from kdtool.tasks.common.export.onnx_file import OUTPUT
from kdtool.tasks.common.export.opened import onnx_session, program_module
from kdtool.tasks.common.export.openvino_file import SUFFIX, openvino_network, weights_of
from kdtool.tasks.images.evaluation.preprocessing import Metadata

INPUT = "images"
"""Name of an ONNX or OpenVINO file's input (B, C, S, S)."""

KINDS = {".onnx": "onnx", ".pt2": "program", ".xml": "openvino"}
"""What kind of exported file a name's ending says."""


class Exported(nn.Module):
    """An exported file as the evaluation loop runs networks: (B, C, S, S) -> ((B, K) logits, no taps).

    Args:
        run: images to logits.
    """

    def __init__(self, run: Callable[[Tensor], Tensor]):
        super().__init__()
        self.run = [run]  # in a list: an exported program is a module that refuses eval() and train()

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Any]]:
        return self.run[0](images), {}


def open_exported(path: Path) -> tuple[Exported, Metadata]:
    """Return an exported file as a network, and what it says of itself.

    Raises:
        InputError: no such file, no export of kdtool's, or the package that runs it is missing.
    """
    if not path.is_file():
        raise InputError(f"there is no file {str(path)!r}.")
    return _OPENERS[KINDS[path.suffix]](path)


def size_of(path: Path) -> int:
    """Return the bytes of a network's file, with what belongs to it."""
    beside = [weights_of(path)] if path.suffix == SUFFIX else []
    return sum(each.stat().st_size for each in (path, *beside))


def _open_onnx(path: Path) -> tuple[Exported, Metadata]:
    session = onnx_session(path)
    metadata = Metadata.read(session.get_modelmeta().custom_metadata_map, str(path))

    def run(images: Tensor) -> Tensor:
        pixels = np.ascontiguousarray(images.detach().cpu().float().numpy())
        return torch.from_numpy(session.run([OUTPUT], {INPUT: pixels})[0])

    return Exported(run), metadata


def _open_program(path: Path) -> tuple[Exported, Metadata]:
    module, said = program_module(path)
    return Exported(module), Metadata.read(said, str(path))


def _open_openvino(path: Path) -> tuple[Exported, Metadata]:
    network, said = openvino_network(path)

    def run(images: Tensor) -> Tensor:
        pixels = np.ascontiguousarray(images.detach().cpu().float().numpy())
        return torch.from_numpy(np.array(network(pixels)))

    return Exported(run), Metadata.read(said, str(path))


_OPENERS = {"onnx": _open_onnx, "program": _open_program, "openvino": _open_openvino}
