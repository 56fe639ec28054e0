"""ONNX files of a network: through torch's dynamo exporter, in fp32 and fp16."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdtool.errors import InputError, RunError
from kdtool.tasks.images.evaluation.exported import INPUT, OUTPUT
from kdtool.tasks.images.evaluation.preprocessing import Metadata


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


def to_onnx(program: Any, images: Any) -> Any:
    """Return the ONNX model of a torch.export program, input "images" (batch, 3, S, S), output "logits" (batch, K).

    Raises:
        RunError: an operation of it has no ONNX counterpart.
    """
    import torch

    try:
        with quiet():
            made = torch.onnx.export(
                program, (images,), dynamo=True, input_names=[INPUT], output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},), external_data=False, verbose=False,
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


def write_onnx(model: Any, path: Path, metadata: Metadata) -> None:
    """Write an ONNX model with its metadata."""
    import onnx

    del model.metadata_props[:]
    onnx.helper.set_model_props(model, metadata.texts())
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
