"""Core ML's format, a package (a folder, .mlpackage) for iPhones, iPads and Macs.

It is converted anywhere and run on macOS only. Elsewhere what was written is read back and compared as far as that
goes: names, shapes, and whether the weights are there and finite.
"""

from __future__ import annotations

import contextlib
import io
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdtool.errors import InputError, RunError
from kdtool.tasks.common.export.onnx_file import quiet
from kdtool.tasks.common.extra import need

SUFFIX = ".mlpackage"

ELSEWHERE = (
    "Core ML runs on macOS only: names, shapes and weights were read back, but no output was compared with the "
    "student's. Measure it on a Mac: kdtool eval takes the package"
)
"""Why a package's outputs are not compared here."""


def runs_here() -> bool:
    """Return whether this system has what runs a package."""
    return sys.platform == "darwin"


def need_package() -> Any:
    """Return the package.

    Raises:
        InputError: it is missing.
    """
    with _silent():
        return need("coremltools", "Core ML packages need", "coreml")


def write_coreml(
    program: Any, shape: tuple[int, ...], path: Path, metadata: Mapping[str, str], name: str, output: str, half: bool
) -> None:
    """Write a torch.export program as a package for iOS 16, macOS 13 and later.

    Args:
        program: of one input and one output.
        shape: of the input.
        path: the package's folder.
        metadata: texts by key.
        name, output: what input and output are called.
        half: weights and arithmetic in fp16, which Apple's neural engine takes; else fp32.

    Raises:
        RunError: an operation of it has no counterpart.
    """
    ct = need_package()
    try:
        with _silent():
            model = ct.convert(
                program.run_decompositions({}),
                inputs=[ct.TensorType(name=name, shape=shape)],
                outputs=[ct.TensorType(name=output, dtype=np.float32)],
                compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
                minimum_deployment_target=ct.target.iOS16,
                skip_model_load=True,
            )
            model.user_defined_metadata.update(metadata)
            model.save(str(path))
    except Exception as error:  # whatever the converter meets
        line = (str(error).strip().splitlines() or [""])[0][:200]
        raise RunError(f"Core ML cannot say this network: {type(error).__name__}: {line}") from error


def read_back(path: Path, name: str, output: str) -> tuple[tuple[int, ...], int, dict[str, str]]:
    """Return a package's shape of the input, the count of its weights and its metadata, wherever it is read.

    Raises:
        InputError: the package is missing, or the folder is no package with that input and output and finite weights.
    """
    ct = need_package()
    try:
        with _silent():
            model = ct.models.MLModel(str(path), skip_model_load=True)
            about = model.get_spec().description
            shapes = {each.name: tuple(each.type.multiArrayType.shape) for each in about.input}
            weights = ct.optimize.coreml.get_weights_metadata(model, weight_threshold=1)
    except Exception as error:  # coremltools raises whatever it meets
        line = (str(error).strip().splitlines() or [""])[-1][:200]
        raise InputError(f"{str(path)!r} is no package of Core ML's: {line}") from error
    names = [each.name for each in about.output]
    if list(shapes) != [name] or names != [output]:
        raise InputError(f"{path} takes {', '.join(shapes)} and gives {', '.join(names)}, not {name} and {output}.")
    if not all(np.isfinite(each.val).all() for each in weights.values()):
        raise InputError(f"{path} has weights that are not finite.")
    count = sum(math.prod(each.val.shape) for each in weights.values())
    return shapes[name], count, dict(model.user_defined_metadata)


def coreml_network(path: Path, name: str, output: str) -> tuple[Callable[[np.ndarray], np.ndarray], dict[str, str]]:
    """Return what runs a package on the CPU (an array to an array), and its metadata: texts by key.

    Args:
        path: the package's folder.
        name, output: what input and output are called.

    Raises:
        InputError: the package is missing or not readable, or this is no Mac.
    """
    *_, said = read_back(path, name, output)
    if not runs_here():
        raise InputError(f"{path}: Core ML runs on macOS only, and this is {sys.platform}. Take another export here.")
    ct = need_package()
    with _silent():
        model = ct.models.MLModel(str(path), compute_units=ct.ComputeUnit.CPU_ONLY)

    def run(samples: np.ndarray) -> np.ndarray:
        return np.concatenate([model.predict({name: sample[None]})[output] for sample in samples])

    return run, said


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep coremltools' bars and advice off the terminal."""
    with quiet(), contextlib.redirect_stderr(io.StringIO()):
        yield
