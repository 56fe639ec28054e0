"""An export beside the student that it was made of: is it the same, how fast is it?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from kdtool.measure.timing import in_turns, summary

EXACT = 1e-5
"""Largest difference of fp32 logits, relative to the student's largest absolute logit."""

ON_A_CARD = 1e-4
"""The same for engines: kernels on a card add in other orders, and some multiply in the transformed domain."""

POINTS = {
    "onnx-fp16": 0.5, "openvino-fp16": 0.5, "coreml-fp16": 0.5, "tensorrt-fp16": 0.5, "onnx-int8": 2.0,
    "torchao-int8": 2.0,
}  # fmt: skip
"""Points of accuracy that a format may lose unless ``--tolerance`` says otherwise; the others must be exact."""


@dataclass(frozen=True)
class NotRun:
    """An export that this system cannot run, read back as far as that goes.

    Attributes:
        why: a sentence, and what was looked at.
    """

    why: str


@dataclass(frozen=True)
class Reference:
    """What the student says of the test split.

    Attributes:
        logits: (N, K).
        labels: (N,) in the logits' numbering; None: a sample has not one class, so only exact formats are compared.
    """

    logits: Tensor
    labels: Tensor | None

    def top1(self, logits: Tensor) -> float | None:
        """Return the accuracy of such logits, in [0, 1]; None without labels."""
        if self.labels is None:
            return None
        return logits.argmax(1).eq(self.labels).double().mean().item()

    def compare(self, form: str, logits: Tensor, tolerance: float | None) -> dict[str, Any]:
        """Return how an export's logits differ, what it may differ by, and whether it does not.

        Args:
            form: the format.
            logits: (N, K) of the export.
            tolerance: points of accuracy; None: the format's own.
        """
        exact, limit = _limit(form, tolerance)
        difference = (logits - self.logits).abs().max().item()
        relative = difference / max(self.logits.abs().max().item(), 1e-30)
        own, reached = self.top1(self.logits), self.top1(logits)
        lost = None if own is None or reached is None else 100 * (own - reached)
        fits = bool(logits.isfinite().all()) and (
            relative <= limit if exact else lost is not None and lost <= limit + 1e-9
        )
        return {
            "max_difference": difference,
            "relative_difference": relative,
            "top1": reached,
            "lost_points": lost,
            "agreement": logits.argmax(1).eq(self.logits.argmax(1)).double().mean().item()
            if self.labels is not None
            else None,
            "tolerance": {"relative_difference" if exact else "lost_points": limit},
            "accepted": fits,
        }

    def not_compared(self, form: str, tolerance: float | None, said: NotRun) -> dict[str, Any]:
        """Return the same of an export that cannot be run here: no figures, and why there are none."""
        exact, limit = _limit(form, tolerance)
        unknown = ("max_difference", "relative_difference", "top1", "lost_points", "agreement")
        return {
            **dict.fromkeys(unknown),
            "tolerance": {"relative_difference" if exact else "lost_points": limit},
            "accepted": True,
            "not_compared": said.why,
        }


def _limit(form: str, tolerance: float | None) -> tuple[bool, float]:
    """Return whether a format is compared number by number, and by what it may differ."""
    if form in POINTS:
        return False, POINTS[form] if tolerance is None else tolerance
    return True, ON_A_CARD if form == "tensorrt" else EXACT


def refusal(form: str, found: Mapping[str, Any], metric: str) -> str:
    """Return why an export is refused, with its number; ``metric`` is what the accuracy is called."""
    if "lost_points" in found["tolerance"]:
        return (
            f"{form} loses {found['lost_points']:.2f} points of {metric} on the test split "
            f"({100 * found['top1']:.2f} %), more than {found['tolerance']['lost_points']:g} (--tolerance)"
        )
    return (
        f"{form} differs by {found['relative_difference']:.2e} of the largest logit, more than "
        f"{found['tolerance']['relative_difference']:g}"
    )


Runner = Callable[[int], Callable[[], object]]
"""Given a batch size, returns what runs a network once."""


def speeds(networks: Mapping[str, Runner], batch_sizes: tuple[int, ...] = (1, 32)) -> dict[str, Any]:
    """Return each network's latency and throughput by batch size, measured in turns on this machine."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in networks}
    for batch_size in batch_sizes:
        runs = [runner(batch_size) for runner in networks.values()]
        for name, times in zip(networks, in_turns(runs, seconds=0.5), strict=True):
            found[name].append(summary(times, batch_size))
    return found


REDUCED = ("int8", "fp16")
"""What the names of formats of reduced precision end with."""


def slower(found: Mapping[str, Any]) -> list[str]:
    """Return a sentence on each export of reduced precision that is slower here than the fp32 file of its kind.

    Args:
        found: by ``speeds``: by name of the network the latencies by batch size.
    """
    said = []
    for form, own in found.items():
        kind, _, precision = form.rpartition("-")
        if precision not in REDUCED:
            continue
        whole = kind if kind in found else "student"
        pairs = [(a["median_ms"], b["median_ms"], a["batch_size"]) for a, b in zip(own, found[whole], strict=True)]
        late = [f"{a:.2f} ms instead of {b:.2f} ms at batch {size}" for a, b, size in pairs if a > b]
        if late:
            said.append(
                f"{form} is slower than {whole} in fp32 on this machine ({', '.join(late)}): here it saves space, not "
                "time; measure it where it is to run."
            )
    return said
