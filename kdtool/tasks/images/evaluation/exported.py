"""Exported files as networks for images, each run by the package that is made for its format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdtool.errors import InputError
from kdtool.system.disk import bytes_in
from kdtool.tasks.common.export import coreml_file, litert_file, openvino_file, tensorrt_file
from kdtool.tasks.common.export.onnx_file import OUTPUT
from kdtool.tasks.common.export.opened import onnx_session, program_module
from kdtool.tasks.images.evaluation.preprocessing import Metadata

INPUT = "images"
"""Name of an exported file's input (B, C, S, S), where its format has names."""

KINDS = {
    ".onnx": "onnx",
    ".pt2": "program",
    openvino_file.SUFFIX: "openvino",
    litert_file.SUFFIX: "litert",
    coreml_file.SUFFIX: "coreml",
    tensorrt_file.SUFFIX: "tensorrt",
}
"""What kind of exported file a name's ending says."""

_BESIDE = {openvino_file.SUFFIX: openvino_file.weights_of, tensorrt_file.SUFFIX: tensorrt_file.notes_of}
"""What returns the file that belongs to an exported one."""


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
    if not is_there(path):
        raise InputError(f"there is no file {str(path)!r}.")
    return _OPENERS[KINDS[path.suffix]](path)


def is_there(path: Path) -> bool:
    """Return whether a path is that of an exported file that exists; Core ML's are folders."""
    return path.is_dir() if path.suffix == coreml_file.SUFFIX else path.suffix in KINDS and path.is_file()


def parts_of(path: Path) -> list[Path]:
    """Return all that an exported file consists of: it, and what lies beside or inside it."""
    inside = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    return [*inside, *([_BESIDE[path.suffix](path)] if path.suffix in _BESIDE else [])]


def size_of(path: Path) -> int:
    """Return the bytes of a network's file, with what belongs to it."""
    return sum(map(bytes_in, parts_of(path)))


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
    return _of_arrays(path, *openvino_file.openvino_network(path))


def _open_litert(path: Path) -> tuple[Exported, Metadata]:
    return _of_arrays(path, *litert_file.litert_network(path, INPUT, OUTPUT))


def _open_coreml(path: Path) -> tuple[Exported, Metadata]:
    return _of_arrays(path, *coreml_file.coreml_network(path, INPUT, OUTPUT))


def _open_tensorrt(path: Path) -> tuple[Exported, Metadata]:
    network, said = tensorrt_file.tensorrt_network(path, INPUT, OUTPUT)
    return Exported(network), Metadata.read(said, str(path))


def _of_arrays(path: Path, network: Callable[[np.ndarray], Any], said: dict[str, str]) -> tuple[Exported, Metadata]:
    def run(images: Tensor) -> Tensor:
        pixels = np.ascontiguousarray(images.detach().cpu().float().numpy())
        return torch.from_numpy(np.array(network(pixels)))

    return Exported(run), Metadata.read(said, str(path))


_OPENERS = {
    "onnx": _open_onnx,
    "program": _open_program,
    "openvino": _open_openvino,
    "litert": _open_litert,
    "coreml": _open_coreml,
    "tensorrt": _open_tensorrt,
}
