"""An export beside the student that it was made of: is it the same, how fast is it?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdtool.measure.timing import in_turns, summary

EXACT = 1e-5
"""Largest difference of fp32 logits, relative to the student's largest absolute logit."""

POINTS = {"onnx-fp16": 0.5, "onnx-int8": 2.0, "torchao-int8": 2.0}
"""Points of top-1 that a format may lose unless ``--tolerance`` says otherwise; the others must be exact."""


@dataclass(frozen=True)
class Reference:
    """What the student says of the test split: (N, K) logits and (N,) labels in the logits' numbering."""

    logits: Tensor
    labels: Tensor

    def top1(self, logits: Tensor) -> float:
        """Return the accuracy of such logits, in [0, 1]."""
        return logits.argmax(1).eq(self.labels).double().mean().item()

    def compare(self, form: str, logits: Tensor, tolerance: float | None) -> dict[str, Any]:
        """Return how an export's logits differ, what it may differ by, and whether it does not.

        Args:
            form: the format.
            logits: (N, K) of the export.
            tolerance: points of top-1; None: the format's own.
        """
        difference = (logits - self.logits).abs().max().item()
        relative = difference / max(self.logits.abs().max().item(), 1e-30)
        lost = 100 * (self.top1(self.logits) - self.top1(logits))
        exact = form not in POINTS
        limit = EXACT if exact else POINTS[form] if tolerance is None else tolerance
        fits = bool(logits.isfinite().all()) and (relative <= limit if exact else lost <= limit + 1e-9)
        return {
            "max_difference": difference,
            "relative_difference": relative,
            "top1": self.top1(logits),
            "lost_points": lost,
            "agreement": logits.argmax(1).eq(self.logits.argmax(1)).double().mean().item(),
            "tolerance": {"relative_difference" if exact else "lost_points": limit},
            "accepted": fits,
        }


def refusal(form: str, found: Mapping[str, Any]) -> str:
    """Return why an export is refused, with its number."""
    if "lost_points" in found["tolerance"]:
        return (
            f"{form} loses {found['lost_points']:.2f} points of top-1 on the test split ({100 * found['top1']:.2f} %), "
            f"more than {found['tolerance']['lost_points']:g} (--tolerance)"
        )
    return (
        f"{form} differs by {found['relative_difference']:.2e} of the largest logit, more than "
        f"{found['tolerance']['relative_difference']:g}"
    )


def speeds(networks: Mapping[str, nn.Module], size: int, batch_sizes: tuple[int, ...] = (1, 32)) -> dict[str, Any]:
    """Return each network's latency and throughput by batch size, measured in turns on this machine."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in networks}
    for batch_size in batch_sizes:
        images = torch.randn(batch_size, 3, size, size, generator=torch.Generator().manual_seed(0))
        runs = [_forward(network, images) for network in networks.values()]
        for name, times in zip(networks, in_turns(runs, seconds=0.5), strict=True):
            found[name].append(summary(times, batch_size))
    return found


def _forward(network: nn.Module, images: Tensor) -> Any:
    def run() -> object:
        with torch.inference_mode():
            return network(images)

    return run
