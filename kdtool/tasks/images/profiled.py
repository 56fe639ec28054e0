"""Image networks to be timed: a run's teachers, student and exports, a saved model, a name or an exported file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kdtool.errors import InputError
from kdtool.tasks.common.export.folder import EXPORTS
from kdtool.tasks.common.export.held_memory import held_by
from kdtool.tasks.common.targets import Found
from kdtool.tasks.images.evaluation.evaluate import about
from kdtool.tasks.images.evaluation.exported import INPUT, KINDS, is_there
from kdtool.tasks.images.evaluation.preprocessing import Preprocessing
from kdtool.tasks.images.evaluation.target import Target, find, open_target
from kdtool.tasks.images.models.built import Built
from kdtool.tasks.images.networks import build_teachers
from kdtool.tasks.task import Profiled, Say


def profiled(name: str, say: Say, image_size: int | None = None) -> list[Profiled]:
    """Return the networks that a target names; weights are not needed, a model by name is built without.

    Args:
        name: the target.
        say: told what is left out, and why.
        image_size: pixels a side of a model by name; default: its own.

    Raises:
        InputError: there is no such target.
    """
    return [_profiled(part, target) for part, target in _open(name, image_size, say)]


def _open(name: str, image_size: int | None, say: Say) -> list[tuple[str, Target]]:
    found = find(name)
    if found.kind == "model":
        return [("model", open_target(found, None, "scratch", image_size))]
    if found.kind != "run":
        return [("export" if found.kind in KINDS.values() else "student", open_target(found, None))]
    student = open_target(found, None)
    assert found.path is not None
    files = sorted(p for p in (found.path / EXPORTS).glob("*") if is_there(p))
    exports = []
    for file in files:
        try:
            exports.append(("export", open_target(find(str(file)), None)))
        except InputError as error:
            say(f"left out: {error}")
    return [*_teachers(found, student, say), ("student", student), *exports]


def _teachers(found: Found, student: Target, say: Say) -> list[tuple[str, Target]]:
    """Return a run's teachers; without their trained weights, which cost the same."""
    assert found.recipe is not None
    try:
        built = build_teachers(found.recipe, student.num_classes, student.preprocessing.size, online=False)
    except InputError as error:
        say(f"the teacher is left out: {error}")
        return []
    return [("teacher", _as_target(each, student)) for each in built]


def _as_target(teacher: Built, student: Target) -> Target:
    how = Preprocessing(teacher.image_size, tuple(teacher.mean), tuple(teacher.std))
    return Target(teacher.name, "model", teacher.tapped(), how, student.class_names, teacher.num_classes, built=teacher)


def _profiled(part: str, target: Target) -> Profiled:
    def forward(batch_size: int, device: torch.device) -> Callable[[], object]:
        return _runner(target, batch_size, device)

    size = target.preprocessing.size

    def held(batch_size: int) -> int | None:
        assert target.file is not None
        return held_by(target.file, {INPUT: _images(batch_size, target.preprocessing).numpy()})

    facts: dict[str, Any] = {"part": part, **about(target), "image_size": size, "input": f"{size}x{size}"}
    return Profiled(facts, forward, held if target.kind == "onnx" else None)


def _runner(target: Target, batch_size: int, device: torch.device) -> Callable[[], object]:
    """Return what runs a network once, as a plain user runs it."""
    network: nn.Module = target.network if target.built is None else target.built.module
    network = network.eval().to(device).to(memory_format=torch.contiguous_format)
    images = _images(batch_size, target.preprocessing).to(device)

    def run() -> object:
        with torch.inference_mode():
            return network(images)

    return run


def _images(count: int, how: Preprocessing) -> Tensor:
    return torch.randn(count, how.channels, how.size, how.size, generator=torch.Generator().manual_seed(0))
