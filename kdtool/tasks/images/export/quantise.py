"""int8 by ONNX Runtime's static quantisation: calibrated on training images, its setting chosen on validation images.

Weights are quantised per output channel (Krishnamoorthi, "Quantizing deep convolutional networks for efficient
inference: A whitepaper", 2018, section 3.1), activations per tensor, in the QDQ form that every runtime reads.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdtool.tasks.common.export.onnx_file import quiet
from kdtool.tasks.common.export.search import search
from kdtool.tasks.images.evaluation.exported import INPUT

PRODUCTS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class Setting:
    """One way to quantise.

    Attributes:
        calibration: "minmax", or "percentile" (99.99 %), which leaves outliers out of an activation's range.
        products_only: quantise convolutions and matrix products alone; what lies between stays in float.
        keep_float: "" nothing more; "ends": the first and the last layer; "depthwise": these, and convolutions with
            few weights for each output (depthwise ones), whose errors nothing averages out.
    """

    calibration: str = "minmax"
    products_only: bool = False
    keep_float: str = ""

    def __str__(self) -> str:
        parts = [self.calibration, "convolutions and products" if self.products_only else "all operators"]
        if self.keep_float:
            kept = {"ends": "first and last layer", "depthwise": "first, last and depthwise layers"}
            parts.append(f"{kept[self.keep_float]} in float")
        return ", ".join(parts)


SETTINGS = (
    Setting(),
    Setting(products_only=True),
    Setting("percentile", products_only=True),
    Setting(products_only=True, keep_float="ends"),
    Setting(products_only=True, keep_float="depthwise"),
)
"""Tried in this order, the fastest first."""


def prepared(model: Any) -> Any:
    """Return the model with shapes inferred and its graph simplified, as quantisation wants it."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder, quiet():
        given, made = Path(folder) / "given.onnx", Path(folder) / "made.onnx"
        onnx.save(model, str(given))
        quant_pre_process(str(given), str(made), skip_symbolic_shape=True)
        return onnx.load(str(made))


def quantised(model: Any, setting: Setting, images: Sequence[np.ndarray]) -> Any:
    """Return a prepared model in int8.

    Args:
        model: from ``prepared``.
        setting: how.
        images: batches (B, C, S, S) float32 to measure the activations' ranges on.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    methods = {"minmax": CalibrationMethod.MinMax, "percentile": CalibrationMethod.Percentile}
    with tempfile.TemporaryDirectory() as folder, quiet():
        given, made = Path(folder) / "given.onnx", Path(folder) / "made.onnx"
        onnx.save(model, str(given))
        quantize_static(
            str(given),
            str(made),
            _reader(images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(PRODUCTS) if setting.products_only else None,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=_in_float(model, setting.keep_float),
            calibrate_method=methods[setting.calibration],
            extra_options={"CalibPercentile": 99.99},
        )
        return onnx.load(str(made))


def chosen(
    model: Any,
    images: Sequence[np.ndarray],
    changed: Callable[[Any], float],
    enough: float,
    say: Callable[[str], None],
) -> tuple[Any, list[dict[str, Any]]]:
    """Return the int8 model of an fp32 one, by the first setting that is good enough: see ``search``.

    Args:
        model: fp32.
        images: as for ``quantised``.
        changed, enough, say: as for ``search``.
    """
    ready = prepared(model)
    return search(SETTINGS, lambda setting: quantised(ready, setting, images), changed, enough, say, "images")


def _in_float(model: Any, which: str) -> list[str]:
    """Return the names of the nodes that stay in float."""
    if not which:
        return []
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    layers = [node for node in model.graph.node if node.op_type in PRODUCTS and node.input[1] in shapes]
    kept = {layers[0].name, layers[-1].name} if layers else set()
    if which == "depthwise":
        kept |= {n.name for n in layers if n.op_type == "Conv" and int(np.prod(shapes[n.input[1]][1:])) < 64}
    return sorted(kept)


def _reader(images: Sequence[np.ndarray]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[np.ndarray] = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: batch}

    return Reader()
