"""``kdtool.profile``: what networks cost on this machine, side by side."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from kdtool.engine.precision import pick_device
from kdtool.errors import InputError
from kdtool.measure import memory
from kdtool.measure.timing import in_turns, summary
from kdtool.runs.tasks import task_of
from kdtool.tasks.task import Profiled


def profile(
    *targets: str | Path,
    batch_sizes: Sequence[int] = (1, 8, 32),
    threads: int | None = None,
    seconds: float = 1.0,
    task: str | None = None,
    image_size: int | None = None,
    length: int | None = None,
    device: str = "cpu",
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measure parameters, MACs, bytes, activation memory, latency and throughput.

    Networks take turns while they are timed. Weights are not needed: a model by name is built without.

    Args:
        targets: runs' folders (teachers, student and exports), saved models, model names or exported files.
        batch_sizes: samples at once.
        threads: of torch and of onnxruntime; default: torch's.
        seconds: of timed forwards for each network and batch size.
        task: what the targets are of; default: what each says of itself, else the default task.
        image_size: pixels a side of image models by name; default: their own.
        length: tokens of a text; default: a run's usual ones.
        device: where torch's networks run; exported files run on the CPU.
        say: takes sentences for the user.

    Returns:
        "machine" and "rows", one a network: part, name, kind, params, macs, bytes, classes, "unit" (what its samples
        are called), "input" (how large one is), "memory" (the forward's peak by batch size, and how it was "measured")
        and "speed" (a list by batch size: median_ms, p95_ms, samples_per_s, runs; of language models tokens_per_s).

    Raises:
        InputError: a target or a number is wrong.
    """
    if not targets or not batch_sizes or min(batch_sizes) < 1 or not 0 < seconds < math.inf:
        raise InputError("profile takes one target or more, batch sizes from 1 on and a finite time above 0.")
    place = pick_device(device)
    with _threads(threads):
        sizes = {"image_size": image_size, "length": length}
        given = {key: value for key, value in sizes.items() if value is not None}
        networks, units = [], []
        for name in map(str, targets):
            of = task_of(name, task)
            networks += (found := of.profiled(name, say or (lambda _: None), **given))
            units += [of.unit] * len(found)
        rows: list[dict[str, Any]] = [
            {"unit": unit, **each.about, "memory": _memory(each, batch_sizes, place), "speed": []}
            for unit, each in zip(units, networks, strict=True)
        ]
        for batch_size in batch_sizes:
            runs = [each.forward(batch_size, place) for each in networks]
            for row, times in zip(rows, in_turns(runs, seconds, place), strict=True):
                speed = summary(times, batch_size)
                per_token = {"tokens_per_s": speed["samples_per_s"] * row["tokens"]} if row.get("tokens") else {}
                row["speed"].append({**speed, **per_token})
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


def _memory(each: Profiled, batch_sizes: Sequence[int], device: torch.device) -> dict[str, Any]:
    """Return the peak of one forward by batch size, and what was looked at."""
    held: dict[str, int | None] = {}
    for size in batch_sizes:
        if each.held is not None:
            held[str(size)] = each.held(size)
        else:
            held[str(size)] = memory.of_tensors(each.forward(size, device), device)
    return {"measured": "growth of a process" if each.held is not None else "tensors of the forward", "bytes": held}
