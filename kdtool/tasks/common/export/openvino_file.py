"""OpenVINO's own format: a graph (.xml), with its weights beside it (.bin). It runs on processors of every maker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from kdtool.errors import InputError, RunError
from kdtool.tasks.common.extra import need

SUFFIX = ".xml"

_ABOUT = "kdtool"
"""The section of a graph's own notes that holds the metadata."""


def need_package() -> Any:
    """Return the package.

    Raises:
        InputError: it is missing.
    """
    return need("openvino", "OpenVINO files need", "openvino")


def weights_of(path: Path) -> Path:
    """Return the file of weights that belongs to a graph."""
    return path.with_suffix(".bin")


def write_openvino(
    program: Any, path: Path, metadata: Mapping[str, str], name: str, output: str, half: bool = False
) -> None:
    """Write a torch.export program as a graph and its weights.

    Args:
        program: of one input and one output.
        path: the graph's; the weights go beside it.
        metadata: texts by key.
        name, output: what input and output are called.
        half: keep the weights in fp16.

    Raises:
        RunError: an operation of it has no counterpart.
    """
    openvino = need_package()
    try:
        model = openvino.convert_model(program)
    except Exception as error:  # whatever the converter meets
        line = (str(error).strip().splitlines() or [""])[0][:200]
        raise RunError(f"OpenVINO cannot say this network: {type(error).__name__}: {line}") from error
    model.inputs[0].get_tensor().set_names({name})
    model.outputs[0].get_tensor().set_names({output})
    for key, text in metadata.items():
        model.set_rt_info(text, [_ABOUT, key])
    openvino.save_model(model, str(path), compress_to_fp16=half)


def openvino_network(path: Path) -> tuple[Callable[[Any], Any], dict[str, str]]:
    """Return what runs a graph on the CPU in fp32 (an array to an array), and its metadata: texts by key.

    Raises:
        InputError: the package is missing, or the file is no graph that it can run.
    """
    openvino = need_package()
    if not weights_of(path).is_file():
        raise InputError(f"{path} has no {weights_of(path).name} beside it, where its weights are: keep them together.")
    threads = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    try:
        core = openvino.Core()
        model = core.read_model(str(path))
        said = model.get_rt_info([_ABOUT]).value if model.has_rt_info([_ABOUT]) else {}
        # In a thread of its own: it gives the thread that it is called in a stack for signals, and of two networks the
        # one that is freed last puts back the other's, which is gone. The next signal would end the process.
        with ThreadPoolExecutor(1) as apart:
            compiled = apart.submit(core.compile_model, model, "CPU", threads).result()
    except Exception as error:  # openvino raises RuntimeErrors of its own
        line = (str(error).strip().splitlines() or [""])[-1][:200]
        raise InputError(f"{str(path)!r} is no graph that OpenVINO can run: {line}") from error
    return lambda array: compiled(array)[0], {str(key): str(text) for key, text in dict(said).items()}
