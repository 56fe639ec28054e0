"""A network as a ``torch.export`` program with a free batch size."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdtool.errors import InputError, RunError
from kdtool.tasks.images.evaluation.exported import EXTRA_FILE
from kdtool.tasks.images.evaluation.preprocessing import Metadata
from kdtool.tasks.images.models.dry import dry_images

_PLACES = ("stack_trace", "source_fn_stack")
"""What torch notes at each operation: lines and files of the machine that exported."""


def plain_copy(module: nn.Module) -> nn.Module:
    """Return a copy on the CPU in fp32, evaluation mode and the usual memory layout."""
    return copy.deepcopy(module).cpu().float().to(memory_format=torch.contiguous_format).eval()


def trace(module: nn.Module, size: int) -> Any:
    """Return the program (B, 3, size, size) -> (B, K) of a module, for any B from 1 on.

    Raises:
        RunError: torch.export cannot follow the module's forward.
    """
    images, batch = dry_images(module, size), torch.export.Dim("batch", min=1)
    try:
        with torch.no_grad():
            program = torch.export.export(module, (images,), dynamic_shapes=({0: batch},))
    except Exception as error:  # whatever tracing meets
        line = (str(error).strip().splitlines() or [""])[0][:200]
        raise RunError(f"torch.export cannot follow this network: {type(error).__name__}: {line}") from error
    for node in program.graph.nodes:
        for key in _PLACES:
            node.meta.pop(key, None)
    return program


def write_program(program: Any, path: Path, metadata: Metadata) -> None:
    """Write a program with its metadata."""
    torch.export.save(program, path, extra_files={EXTRA_FILE: json.dumps(metadata.texts())})


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
