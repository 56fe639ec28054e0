"""ONNX files of a network: through torch's dynamo exporter, in fp32 and fp16."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdtool.errors import InputError, RunError

OUTPUT = "logits"
"""Name of an ONNX file's output (B, K)."""


def need_packages() -> None:
    """Refuse to go on without the packages of the extra ``export``.

    Raises:
        InputError: one is missing.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f"ONNX exports need {error.name}: pip install 'kdtool[export]'.") from error


def to_onnx(
    program: Any,
    inputs: Mapping[str, Any],
    shapes: Sequence[Any],
    translated: Mapping[Any, Callable[..., Any]] | None = None,
) -> Any:
    """Return the ONNX model of a torch.export program, output "logits" (batch, K).

    Args:
        program: the program.
        inputs: by name a tensor that it takes, in its order.
        shapes: for each the free sizes by dimension, as torch.export takes them.
        translated: operations that torch's exporter does not know, and what says them in ONNX.

    Raises:
        RunError: an operation of it has no ONNX counterpart.
    """
    import torch

    try:
        with quiet():
            made = torch.onnx.export(
                program, tuple(inputs.values()), dynamo=True, input_names=list(inputs), output_names=[OUTPUT],
                dynamic_shapes=tuple(shapes), external_data=False, verbose=False,
                custom_translation_table=dict(translated or {}),
            )  # fmt: skip
    except Exception as error:  # whatever the exporter meets
        line = (str(error).strip().splitlines() or [""])[0][:200]
        raise RunError(f"ONNX cannot say this network: {type(error).__name__}: {line}") from error
    assert made is not None
    return without_places(made.model_proto)


def without_places(model: Any) -> Any:
    """Drop what the exporter notes at each node: lines and files of the machine that exported."""
    for part in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info, model.graph):
        del part.metadata_props[:]
        part.doc_string = ""
    for function in model.functions:
        for node in function.node:
            del node.metadata_props[:]
            node.doc_string = ""
    return model


def write_onnx(model: Any, path: Path, metadata: Mapping[str, str]) -> None:
    """Write an ONNX model with its metadata, texts by key."""
    import onnx

    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.save(model, str(path))


def to_fp16(model: Any) -> Any:
    """Return the model with fp16 weights and arithmetic; input and output stay fp32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with quiet():
        return convert_float_to_float16(model, keep_io_types=True)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep exporters' chatter off the terminal; what matters comes back as an error."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
