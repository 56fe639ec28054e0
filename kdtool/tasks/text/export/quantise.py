"""int8 by ONNX Runtime's dynamic quantisation: weights are stored in int8, activations scaled as they come."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdtool.tasks.common.export.onnx_file import quiet

PRODUCTS = ("MatMul", "Gemm", "LSTM", "Conv")


@dataclass(frozen=True)
class Setting:
    """One way to quantise.

    Attributes:
        embeddings: word vectors as well, most of a small network's bytes.
    """

    embeddings: bool

    def __str__(self) -> str:
        return "weights and word vectors" if self.embeddings else "weights, word vectors in float"


SETTINGS = (Setting(True), Setting(False))
"""Tried in this order, the smallest first."""


def quantised(model: Any, setting: Setting) -> Any:
    """Return an fp32 ONNX model in int8."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    operations = [*PRODUCTS, "Gather"] if setting.embeddings else list(PRODUCTS)
    said = logging.root.level
    with tempfile.TemporaryDirectory() as folder, quiet():
        given, made = Path(folder) / "given.onnx", Path(folder) / "made.onnx"
        onnx.save(model, str(given))
        logging.root.setLevel(logging.ERROR)  # it recommends a step that folds constants, which torch has done
        try:
            quantize_dynamic(str(given), str(made), op_types_to_quantize=operations, weight_type=QuantType.QInt8)
        finally:
            logging.root.setLevel(said)
        return onnx.load(str(made))
