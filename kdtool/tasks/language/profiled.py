"""Language models to be timed, at reading a text and at writing one: a run's teachers, student and exports, an
exported file, or a network by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdtool.errors import InputError
from kdtool.tasks.common.cost import macs, parameters
from kdtool.tasks.common.export.folder import EXPORTS
from kdtool.tasks.common.export.held_memory import held_by
from kdtool.tasks.common.export.opened import SUFFIXES
from kdtool.tasks.language import options
from kdtool.tasks.language.data.dataset import LanguageData
from kdtool.tasks.language.data.open import in_tokens, read_data
from kdtool.tasks.language.evaluation.target import find, open_target, place_of
from kdtool.tasks.language.export.served import IDS, Exported, open_exported
from kdtool.tasks.language.lengths import drawn, usual_length
from kdtool.tasks.language.models.build import Request, build, is_own
from kdtool.tasks.language.models.built import DRY_LENGTH, Built, Inputs
from kdtool.tasks.language.models.tokens import Tokens, of_folder, trained_on
from kdtool.tasks.language.models.writing import go_on, likeliest
from kdtool.tasks.language.networks import build_teachers
from kdtool.tasks.task import Profiled, Say

WRITTEN = 16
"""Tokens that are written where writing is timed."""


def profiled(name: str, say: Say, length: int | None = None) -> list[Profiled]:
    """Return the networks that a target names, each at reading a text and at writing what follows.

    Args:
        name: a run's folder, a saved model's, an exported file, or a network as ``--model`` takes it, which is built
            without its weights.
        say: told what is left out, and why.
        length: tokens of a text; default: of a run the 95th percentile of its test split, of an exported file that of
            the run it was made of, else the usual ``data.max_length``.

    Raises:
        InputError: there is no such target, or it takes no text so long.
    """
    path, usual = Path(name).expanduser(), options.Data()
    if path.suffix in SUFFIXES:
        return [_export(name, open_exported(path), path, length)]
    found = find(name)
    if found.path is None:
        longest = length or usual.max_length
        tokens = trained_on([], usual.vocab_size) if is_own(name) else of_folder(name)
        size = usual.vocab_size if is_own(name) else tokens.size
        built = build(Request(name, "scratch", size, tokens, {}, 0, "target", min(longest, DRY_LENGTH)))
        return list(_both("model", name, built, None, longest))
    tokens, data = of_folder(place_of(found)), None
    if found.recipe is not None and (found.kind == "run" or length is None):
        data = _data(found.recipe, tokens, say)
    if length is None:
        length = usual_length(data.test) if data is not None else usual.max_length
    target = open_target(found, tokens, tokens.size, DRY_LENGTH)
    student = list(_both("student" if found.recipe is not None else "model", name, target.built, target.file, length))
    if found.kind != "run":
        return student
    teachers = build_teachers(found.recipe, data, online=False) if data is not None else []
    exports = []
    for file in sorted(each for each in (found.path / EXPORTS).glob("*") if each.suffix in SUFFIXES):
        try:
            exports.append(_export(str(file), open_exported(file), file, length))
        except InputError as error:
            say(f"left out: {error}")
    return [
        *(row for each in teachers if each.writes for row in _both("teacher", each.name, each, None, length)),
        *student,
        *exports,
    ]


def _data(recipe: Any, tokens: Tokens, say: Say) -> LanguageData | None:
    try:
        return in_tokens(read_data(recipe.data, recipe.train.steps is not None), recipe.data, tokens, tokens.size)
    except InputError as error:
        say(f"the teacher is left out, and texts are of the usual length: {error}")
        return None


def _both(part: str, name: str, built: Built, file: Path | None, length: int) -> Iterator[Profiled]:
    """Yield a network at reading a text of a length, and at writing a few tokens behind one."""
    most = getattr(built.module.config, "max_position_embeddings", None)
    if most is not None and length + WRITTEN > most:
        raise InputError(f"--length {length}: {name} reads {most - WRITTEN} tokens at most where {WRITTEN} follow.")
    network = built.tapped().eval()
    about = {
        "part": part, "name": name, "kind": "run" if part == "student" else "model", "model": built.name,
        "params": parameters(built.module), "bytes": file.stat().st_size if file is not None else None,
        "classes": built.num_classes, "length": length,
    }  # fmt: skip

    def inputs(count: int) -> Inputs:
        following = torch.zeros(count, length, dtype=torch.bool)
        following[:, -1] = True  # who goes on with a text needs the last token's logits alone
        lengths = torch.full((count,), length)
        return {"ids": drawn(count, length, built.num_classes), "next": following, "lengths": lengths}

    def read(batch_size: int, device: torch.device) -> Callable[[], object]:
        placed, given = network.to(device), {key: each.to(device) for key, each in inputs(batch_size).items()}

        def run() -> object:
            with torch.inference_mode():
                return placed(given)[0].whole()

        return run

    def write(batch_size: int, device: torch.device) -> Callable[[], object]:
        placed, prompts = network.to(device), inputs(batch_size)["ids"].tolist()

        def run() -> object:
            with torch.inference_mode():
                return go_on(placed, prompts, [WRITTEN] * batch_size, None, likeliest)

        return run

    cost = macs(network, inputs(1))
    yield Profiled({**about, "macs": cost, "input": f"{length} tokens read", "tokens": length}, read)
    yield Profiled({**about, "macs": None, "input": f"{WRITTEN} written after {length}", "tokens": WRITTEN}, write)


def _export(name: str, opened: Exported, file: Path, length: int | None) -> Profiled:
    about = opened.about
    length = length or about.length
    if length > about.max_length:
        raise InputError(f"--length {length}: {name} takes texts of 1 to {about.max_length} tokens (data.max_length).")
    onnx = file.suffix == ".onnx"
    facts = {
        "part": "export", "name": name, "kind": "onnx" if onnx else "program", "model": None, "params": about.params,
        "macs": None, "bytes": file.stat().st_size, "classes": about.vocab_size, "input": f"{length} tokens read",
        "length": length, "tokens": length,
    }  # fmt: skip

    def ids(batch_size: int) -> Tensor:
        return drawn(batch_size, length, about.vocab_size)

    def run_of(batch_size: int) -> Callable[[], object]:
        given = ids(batch_size)

        def run() -> object:
            with torch.inference_mode():
                return opened.run(given)

        return run

    def held(batch_size: int) -> int | None:
        return held_by(file, {IDS: ids(batch_size).numpy()})

    return Profiled(facts, lambda count, device: run_of(count), held if onnx else None)
