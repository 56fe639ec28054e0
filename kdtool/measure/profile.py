"""``kdtool.profile``: what networks cost on this machine, side by side."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdtool.engine.precision import pick_device
from kdtool.errors import InputError
from kdtool.measure import memory
from kdtool.measure.timing import in_turns, summary
from kdtool.tasks.images.evaluation.evaluate import about
from kdtool.tasks.images.evaluation.exported import SUFFIXES
from kdtool.tasks.images.evaluation.preprocessing import Preprocessing
from kdtool.tasks.images.evaluation.target import Found, Target, find, open_target
from kdtool.tasks.images.models.built import Built
from kdtool.tasks.images.networks import build_teachers

EXPORTS = "export"
"""The folder in a run's that ``kdtool export`` writes to."""


@dataclass
class _Profiled:
    """A network with its part: "teacher", "student", "export" or "model"."""

    part: str
    target: Target

    def runnable(self, device: torch.device) -> nn.Module:
        """Return it in evaluation mode, as a plain user runs it."""
        network: nn.Module = self.target.network if self.target.built is None else self.target.built.module
        return network.eval().to(device).to(memory_format=torch.contiguous_format)

    def images(self, batch_size: int, device: torch.device) -> Tensor:
        size = self.target.preprocessing.size
        return torch.randn(batch_size, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)


def profile(
    *targets: str | Path,
    batch_sizes: Sequence[int] = (1, 8, 32),
    threads: int | None = None,
    seconds: float = 1.0,
    image_size: int | None = None,
    device: str = "cpu",
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measure parameters, MACs, bytes, activation memory, latency and throughput.

    Networks take turns while they are timed. Weights are not needed: a model by name is built without.

    Args:
        targets: runs' folders (teachers, student and exports), saved models, model names or exported files.
        batch_sizes: images at once.
        threads: of torch and of onnxruntime; default: torch's.
        seconds: of timed forwards for each network and batch size.
        image_size: pixels a side of models by name; default: their own.
        device: where torch's networks run; exported files run on the CPU.
        say: takes sentences for the user.

    Returns:
        "machine" and "rows", one a network: part, name, kind, params, macs, bytes, classes, image_size, "memory" (the
        forward's peak by batch size, and how it was "measured") and "speed" (a list by batch size: median_ms, p95_ms,
        samples_per_s, runs).

    Raises:
        InputError: a target or a number is wrong.
    """
    if not targets or not batch_sizes or min(batch_sizes) < 1 or not 0 < seconds < math.inf:
        raise InputError("profile takes one target or more, batch sizes from 1 on and a finite time above 0.")
    place = pick_device(device)
    with _threads(threads):
        networks = [each for name in targets for each in _open(str(name), image_size, say or (lambda _: None))]
        rows: list[dict[str, Any]] = [
            {
                "part": each.part,
                **about(each.target),
                "image_size": each.target.preprocessing.size,
                "memory": _memory(each, batch_sizes, place),
                "speed": [],
            }
            for each in networks
        ]
        for batch_size in batch_sizes:
            runs = [_forward(each, batch_size, place) for each in networks]
            for row, times in zip(rows, in_turns(runs, seconds, place), strict=True):
                row["speed"].append(summary(times, batch_size))
        return {"machine": machine(place), "rows": rows}


def machine(device: torch.device) -> dict[str, Any]:
    """Return where something was measured."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {"device": str(device), "processor": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _open(name: str, image_size: int | None, say: Callable[[str], None]) -> list[_Profiled]:
    found = find(name)
    if found.kind == "model":
        return [_Profiled("model", open_target(found, None, "scratch", None, image_size))]
    if found.kind != "run":
        return [_Profiled("export" if found.kind in ("onnx", "program") else "student", open_target(found, None))]
    student = open_target(found, None)
    assert found.path is not None
    files = sorted(p for p in (found.path / EXPORTS).glob("*") if p.suffix in SUFFIXES)
    exports = []
    for file in files:
        try:
            exports.append(_Profiled("export", open_target(find(str(file)), None)))
        except InputError as error:
            say(f"left out: {error}")
    return [*_teachers(found, student, say), _Profiled("student", student), *exports]


def _teachers(found: Found, student: Target, say: Callable[[str], None]) -> list[_Profiled]:
    """Return a run's teachers; without their trained weights, which cost the same."""
    assert found.recipe is not None
    try:
        built = build_teachers(found.recipe, student.num_classes, student.preprocessing.size, online=False)
    except InputError as error:
        say(f"the teacher is left out: {error}")
        return []
    return [_Profiled("teacher", _as_target(each, student)) for each in built]


def _as_target(teacher: Built, student: Target) -> Target:
    how = Preprocessing(teacher.image_size, tuple(teacher.mean), tuple(teacher.std))
    return Target(teacher.name, "model", teacher.tapped(), how, student.class_names, teacher.num_classes, built=teacher)


def _forward(each: _Profiled, batch_size: int, device: torch.device) -> Callable[[], object]:
    network, images = each.runnable(device), each.images(batch_size, device)

    def run() -> object:
        with torch.inference_mode():
            return network(images)

    return run


def _memory(each: _Profiled, batch_sizes: Sequence[int], device: torch.device) -> dict[str, Any]:
    """Return the peak of one forward by batch size, and what was looked at."""
    held: dict[str, int | None] = {}
    for size in batch_sizes:
        if each.target.kind == "onnx":
            # A fresh session: its memory grows at the first run, and is kept.
            fresh = _Profiled(each.part, open_target(find(each.target.name), None))
            held[str(size)] = memory.of_process(_forward(fresh, size, device))
        else:
            held[str(size)] = memory.of_tensors(_forward(each, size, device), device)
    measured = "growth of the process" if each.target.kind == "onnx" else "tensors of the forward"
    return {"measured": measured, "bytes": held}
