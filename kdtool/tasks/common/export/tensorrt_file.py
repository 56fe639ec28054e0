"""TensorRT's engines (.engine): built of an ONNX model on the NVIDIA card that is to run them, and for no other.

What a file says of itself lies in a .json file beside it. After NVIDIA's "TensorRT Python API Documentation": from
version 10 on, whose networks take the types of their arithmetic from the ONNX model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdtool.errors import InputError, RunError
from kdtool.tasks.common.extra import need

SUFFIX = ".engine"

USUAL, MOST = 32, 256
"""Samples at once: what kernels are chosen for, and the most that an engine takes."""


def need_package() -> Any:
    """Return the package.

    Raises:
        InputError: there is no card, or the package is missing.
    """
    if not torch.cuda.is_available():
        raise InputError(
            "TensorRT builds and runs an engine on an NVIDIA card, and torch sees none here: export there, with "
            "pip install 'kdtool[tensorrt]', or take --to onnx, which TensorRT reads on the machine that is to run it."
        )
    return need("tensorrt", "TensorRT engines need", "tensorrt")


def notes_of(path: Path) -> Path:
    """Return the file that holds an engine's metadata."""
    return path.with_suffix(".json")


def write_tensorrt(model: Any, path: Path, metadata: Mapping[str, str]) -> None:
    """Build an engine of an ONNX model whose input has a free first size, and write it with its metadata.

    fp32 stays fp32: TensorRT would round factors to TF32's 10 bits, and outputs would differ in the third digit.

    Args:
        model: of one input.
        path: the engine's; the metadata go beside it.
        metadata: texts by key.

    Raises:
        RunError: an operation of it has no counterpart, or the card cannot build it.
    """
    trt = need_package()
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString()):
        said = "; ".join(parser.get_error(number).desc() for number in range(parser.num_errors))
        raise RunError(f"TensorRT cannot say this network: {said[:200]}")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    given = network.get_input(0)
    rest = tuple(given.shape)[1:]
    profile = builder.create_optimization_profile()
    profile.set_shape(given.name, (1, *rest), (USUAL, *rest), (MOST, *rest))
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise RunError("TensorRT cannot build this network on this card; what it met stands above.")
    path.write_bytes(bytes(engine))
    notes_of(path).write_text(json.dumps(dict(metadata)), encoding="utf-8")


def tensorrt_network(path: Path, name: str, output: str) -> tuple[Callable[[Tensor], Tensor], dict[str, str]]:
    """Return what runs an engine on the current card (a tensor to one on the same device), and its metadata.

    Args:
        path: the engine's.
        name, output: what input and output are called.

    Raises:
        InputError: the package or a card is missing, or the engine was built for another card or version.
    """
    trt = need_package()
    notes = notes_of(path)
    if not notes.is_file():
        raise InputError(f"{path} has no {notes.name} beside it, which says how it is fed: keep them together.")
    said = json.loads(notes.read_text(encoding="utf-8"))
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise InputError(
            f"{path} is no engine that TensorRT {trt.__version__} can run on {torch.cuda.get_device_name()}: it runs "
            "on the kind of card and the version that it was built with. Export again here."
        )
    context = engine.create_execution_context()

    def part(samples: Tensor) -> Tensor:
        given = samples.cuda().float().contiguous()
        context.set_input_shape(name, tuple(given.shape))
        found = torch.empty(tuple(context.get_tensor_shape(output)), device=given.device)
        context.set_tensor_address(name, given.data_ptr())
        context.set_tensor_address(output, found.data_ptr())
        stream = torch.cuda.current_stream()
        if not context.execute_async_v3(stream.cuda_stream):
            raise RunError(f"TensorRT could not run {path} on {len(samples)} samples.")
        stream.synchronize()  # before what it reads and writes is let go of
        return found.to(samples.device)

    return lambda samples: torch.cat([part(each) for each in samples.split(MOST)]), said
