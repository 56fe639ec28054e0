"""LiteRT's format (TensorFlow Lite before): one file (.tflite) for phones, boards and browsers.

What a file says of itself lies in a ZIP archive behind the network, as TensorFlow Lite keeps what belongs to a model:
``unzip -p student.tflite kdtool.json`` shows it, and an interpreter never reads that far.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdtool.errors import InputError, RunError
from kdtool.tasks.common.export.onnx_file import quiet
from kdtool.tasks.common.export.opened import EXTRA_FILE
from kdtool.tasks.common.extra import need

SUFFIX = ".tflite"


def need_package() -> Any:
    """Return the package that converts.

    Raises:
        InputError: it is missing.
    """
    with quiet():
        return need("litert_torch", "LiteRT files need", "litert")


class _Named(nn.Module):
    """A network whose input and output have names."""

    def __init__(self, network: nn.Module, output: str):
        super().__init__()
        self.network, self.output = network, output

    def forward(self, **named: Tensor) -> dict[str, Tensor]:
        (given,) = named.values()
        return {self.output: self.network(given)}


def write_litert(
    module: nn.Module, example: Tensor, path: Path, metadata: Mapping[str, str], name: str, output: str
) -> None:
    """Write a network for one sample at a time, as phones have them, and compilers for phones want fixed sizes.

    Args:
        module: on the CPU, in evaluation mode.
        example: of its input, (1, ...).
        path: the file.
        metadata: texts by key.
        name, output: what input and output are called.

    Raises:
        RunError: an operation of it has no counterpart.
    """
    litert_torch = need_package()
    try:
        with quiet():
            converted = litert_torch.convert(_Named(module, output).eval(), sample_kwargs={name: example})
            converted.export(str(path))
    except Exception as error:  # whatever the converter meets
        line = (str(error).strip().splitlines() or [""])[0][:200]
        raise RunError(f"LiteRT cannot say this network: {type(error).__name__}: {line}") from error
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(EXTRA_FILE, json.dumps(dict(metadata)))


def litert_network(path: Path, name: str, output: str) -> tuple[Callable[[np.ndarray], np.ndarray], dict[str, str]]:
    """Return what runs a file on the CPU in fp32 (an array to an array), and its metadata: texts by key.

    Args:
        path: the file.
        name, output: what input and output are called.

    Raises:
        InputError: the package is missing, or the file is no network that it can run.
    """
    runtime = need("ai_edge_litert.interpreter", "LiteRT files need", "litert")
    try:
        interpreter = runtime.Interpreter(str(path), num_threads=torch.get_num_threads())
        runner = interpreter.get_signature_runner()
    except Exception as error:  # the interpreter raises ValueErrors and RuntimeErrors of its own
        line = (str(error).strip().splitlines() or [""])[0][:200]
        raise InputError(f"{str(path)!r} is no network that LiteRT can run: {line}") from error

    def run(samples: np.ndarray) -> np.ndarray:
        return np.concatenate([runner(**{name: sample[None]})[output] for sample in samples])

    return run, _said(path)


def _said(path: Path) -> dict[str, str]:
    try:
        with zipfile.ZipFile(path) as archive:
            said: dict[str, str] = json.loads(archive.read(EXTRA_FILE))
    except (zipfile.BadZipFile, KeyError, ValueError):
        return {}  # another's file, which says nothing
    return said
