"""Text networks to be timed: a run's teachers, student and exports, an exported file, or a network by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdtool.errors import InputError
from kdtool.runs.folder import RECIPE
from kdtool.tasks.common.cost import macs, parameters
from kdtool.tasks.common.export.folder import EXPORTS
from kdtool.tasks.common.export.held_memory import held_by
from kdtool.tasks.common.export.opened import SUFFIXES
from kdtool.tasks.common.weights import WEIGHTS
from kdtool.tasks.task import Profiled, Say
from kdtool.tasks.text import options
from kdtool.tasks.text.data.open import open_data
from kdtool.tasks.text.export.served import Exported, as_served, open_exported
from kdtool.tasks.text.export.shipped import Shipped, open_shipped
from kdtool.tasks.text.lengths import drawn, usual_length
from kdtool.tasks.text.models.build import Request, build, is_own
from kdtool.tasks.text.models.built import Built
from kdtool.tasks.text.models.tokens import of_folder, of_size
from kdtool.tasks.text.networks import build_teachers

CLASSES = 2
"""Of a network by name."""


def profiled(name: str, say: Say, length: int | None = None) -> list[Profiled]:
    """Return the networks that a target names; teachers are taken untrained, which costs the same.

    Args:
        name: a run's folder, the student in one, an exported file, or a network as ``--model`` takes it.
        say: told what is left out, and why.
        length: tokens of a text; default: of a run the 95th percentile of its test split, of an exported file that of
            the run it was made of, of a network by name the usual ``data.max_length``.

    Raises:
        InputError: there is no such target, or it takes no text so long.
    """
    path = Path(name).expanduser()
    if path.suffix in SUFFIXES:
        return [_export(name, open_exported(path), path, length)]
    if path.is_dir() and any((each / RECIPE).is_file() for each in (path, path.resolve().parent)):
        return _of_run(open_shipped(name), say, length)
    return [_built("model", name, _named(name, length), None, length or options.Data().max_length)]


def _of_run(student: Shipped, say: Say, length: int | None) -> list[Profiled]:
    whole, data = (student.path / RECIPE).is_file(), None
    if whole or length is None:
        try:
            data = open_data(student.recipe.data)
        except InputError as error:
            say(f"the teacher is left out, and texts are of data.max_length tokens: {error}")
    tokens = student.built.tokens
    if length is None:
        length = usual_length(tokens, data.test) if data is not None else tokens.max_length
    _check(student.name, length, tokens.max_length)
    found = [_built("student", student.name, student.built, student.folder / WEIGHTS, length)]
    if not whole:
        return found
    teachers = build_teachers(student.recipe, data, online=False) if data is not None else []
    exports = []
    for file in sorted(each for each in (student.path / EXPORTS).glob("*") if each.suffix in SUFFIXES):
        try:
            exports.append(_export(str(file), open_exported(file), file, length, found[0].about["macs"]))
        except InputError as error:
            say(f"left out: {error}")
    return [*(_built("teacher", each.name, each, None, length) for each in teachers), *found, *exports]


def _check(name: str, length: int, longest: int) -> None:
    if length > longest:
        raise InputError(f"--length {length}: {name} takes texts of 1 to {longest} tokens (data.max_length).")


def _named(name: str, length: int | None) -> Built:
    """Return a network by name, without its weights; where it has no tokenizer, with the usual vocabulary's size."""
    usual = options.Data()
    longest = max(length or 0, usual.max_length)
    tokens = of_size(usual.vocab_size, longest) if is_own(name) else of_folder(name, longest)
    return build(Request(name, "scratch", CLASSES, tokens, {}, 0, "student"))


def _built(part: str, name: str, built: Built, file: Path | None, length: int) -> Profiled:
    network, key = built.tapped().eval(), built.tokens.digest

    def texts(count: int) -> dict[str, dict[str, Tensor]]:
        return {key: drawn(count, length, built.tokens.size)}

    about = {
        "part": part, "name": name, "kind": "run" if part == "student" else "model", "model": built.name,
        "params": parameters(built.module), "macs": macs(network, texts(1)),
        "bytes": file.stat().st_size if file is not None else None, "classes": built.num_classes,
        "input": f"{length} tokens", "length": length,
    }  # fmt: skip

    def forward(batch_size: int, device: torch.device) -> Callable[[], object]:
        placed: nn.Module = network.to(device)
        given = {key: {name: each.to(device) for name, each in texts(batch_size)[key].items()}}

        def run() -> object:
            with torch.inference_mode():
                return placed(given)

        return run

    return Profiled(about, forward)


def _export(name: str, opened: Exported, file: Path, length: int | None, cost: int | None = None) -> Profiled:
    about = opened.about
    length = length or about.length
    _check(name, length, about.max_length)
    kind = "onnx" if file.suffix == ".onnx" else "program"
    known = about.macs if length == about.length else cost
    facts: Mapping[str, Any] = {
        "part": "export", "name": name, "kind": kind, "model": None, "params": about.params, "macs": known,
        "bytes": file.stat().st_size, "classes": len(about.class_names), "input": f"{length} tokens", "length": length,
    }  # fmt: skip

    def inputs(batch_size: int) -> Mapping[str, Any]:
        return as_served(drawn(batch_size, length, about.vocab_size), tuple(about.inputs))

    def run_of(found: Exported, batch_size: int) -> Callable[[], object]:
        given = inputs(batch_size)

        def run() -> object:
            with torch.inference_mode():
                return found.run(given)

        return run

    def held(batch_size: int) -> int | None:
        return held_by(file, {key: np.asarray(value) for key, value in inputs(batch_size).items()})

    return Profiled(facts, lambda count, device: run_of(opened, count), held if kind == "onnx" else None)
