"""What is said of an export that is slower than it should be."""

from __future__ import annotations

from typing import Any

from kdtool.tasks.common.export.checks import slower


def times(*milliseconds: float) -> list[dict[str, Any]]:
    return [{"batch_size": size, "median_ms": each} for size, each in zip((1, 32), milliseconds, strict=True)]


def test_an_int8_file_that_is_slower_than_fp32_is_said_to_be() -> None:
    found = {"student": times(9.0, 9.0), "onnx": times(0.5, 8.0), "onnx-int8": times(0.7, 4.0)}
    (said,) = slower(found)
    assert said.startswith(
        "onnx-int8 is slower than onnx in fp32 on this machine (0.70 ms instead of 0.50 ms at batch 1)"
    )
    assert slower({**found, "onnx-int8": times(0.4, 4.0)}) == []
    (said,) = slower({"student": times(9.0, 9.0), "onnx-fp16": times(9.5, 20.0)})  # the fp32 file was not asked for
    assert "than student in fp32" in said
    assert "9.50 ms instead of 9.00 ms at batch 1, 20.00 ms instead of 9.00 ms at batch 32" in said
