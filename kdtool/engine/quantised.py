"""Frozen networks whose linear layers are kept in 8 bits, a quarter of their memory, by torchao."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from torch import nn

from kdtool.errors import InputError

PACKAGE = "torchao"


def need_package() -> str:
    """Return torchao's version.

    Raises:
        InputError: it is missing.
    """
    try:
        return version(PACKAGE)
    except PackageNotFoundError as error:
        raise InputError("teacher.precision=int8 needs torchao: pip install 'kdtool[torchao]'.") from error


def in_int8(module: nn.Module) -> nn.Module:
    """Return a module with the weights of its linear layers in int8, each row with a scale of its own.

    They are multiplied out again where they are used, so activations stay as they are.

    Raises:
        InputError: torchao is missing.
    """
    need_package()
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(module, Int8WeightOnlyConfig())
    return module
