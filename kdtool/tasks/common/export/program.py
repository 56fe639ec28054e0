"""A network as a ``torch.export`` program with free sizes."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdtool.errors import InputError, RunError
from kdtool.tasks.common.export.opened import EXTRA_FILE

_PLACES = ("stack_trace", "source_fn_stack")
"""What torch notes at each operation: lines and files of the machine that exported."""


def plain_copy(module: nn.Module) -> nn.Module:
    """Return a copy on the CPU in fp32, evaluation mode and the usual memory layout."""
    return copy.deepcopy(module).cpu().float().to(memory_format=torch.contiguous_format).eval()


def trace(module: nn.Module, inputs: Sequence[Any], shapes: Sequence[Any]) -> Any:
    """Return the program of a module.

    Args:
        module: on the CPU, in evaluation mode.
        inputs: what it takes; its samples number two or more.
        shapes: for each input the free sizes by dimension, ``torch.export.Dim``.

    Raises:
        RunError: torch.export cannot follow the module's forward.
    """
    try:
        with torch.no_grad():
            program = torch.export.export(module, tuple(inputs), dynamic_shapes=tuple(shapes))
    except Exception as error:  # whatever tracing meets
        line = (str(error).strip().splitlines() or [""])[0][:200]
        raise RunError(f"torch.export cannot follow this network: {type(error).__name__}: {line}") from error
    for node in program.graph.nodes:
        for key in _PLACES:
            node.meta.pop(key, None)
    return program


def write_program(program: Any, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a program with its metadata, texts by key."""
    torch.export.save(program, path, extra_files={EXTRA_FILE: json.dumps(dict(metadata))})


def quantised_by_torchao(module: nn.Module) -> nn.Module:
    """Return a module whose linear layers have int8 weights and take int8 activations, scaled at run time.

    Raises:
        InputError: torchao is missing.
    """
    try:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
        from torchao.utils import unwrap_tensor_subclass
    except ImportError as error:
        raise InputError("--to torchao-int8 needs torchao: pip install 'kdtool[torchao]'.") from error
    quantize_(module, Int8DynamicActivationInt8WeightConfig())
    unwrap_tensor_subclass(module)  # into plain tensors, which a program keeps without pickling them
    return module
