"""``kdtool.export`` for language models: files that run without kdtool, each compared with the student before it is
kept. What serves by transformers, vLLM and llama.cpp is the student's own folder.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdtool.errors import InputError, RunError
from kdtool.measure.profile import machine
from kdtool.system import strict_json
from kdtool.system.disk import write_whole
from kdtool.tasks.common import extra
from kdtool.tasks.common.cost import parameters
from kdtool.tasks.common.export import onnx_file, program
from kdtool.tasks.common.export.checks import Reference, Runner, refusal, speeds
from kdtool.tasks.common.export.folder import check_asked, folder_for, held, keep_if_good
from kdtool.tasks.common.targets import recipe_for
from kdtool.tasks.language.data.batches import Maker
from kdtool.tasks.language.data.dataset import Split
from kdtool.tasks.language.data.open import in_tokens, read_data
from kdtool.tasks.language.evaluation.target import Target, find, open_target, place_of
from kdtool.tasks.language.export.served import IDS, Exported, Served, Serving, open_exported
from kdtool.tasks.language.lengths import drawn, usual_length
from kdtool.tasks.language.models.built import DRY_LENGTH
from kdtool.tasks.language.models.tokens import of_folder
from kdtool.tasks.task import Say

FORMATS = {"program": "student.pt2", "onnx": "student.onnx"}
"""What can be made, and the file's name."""

SERVING = "serving.json"
"""What lies beside the files and says how they are used."""

BATCHES = (1, 3, 8)
"""Samples at once, in turn, where files are compared."""

MOST = 1 << 26
"""Logits that files are compared on, about."""

ROOM = 2_000_000_000
"""Bytes that one ONNX file can hold."""

UNIT, METRIC = "tokens", "top-1"

Network = Callable[[Tensor], Tensor]


def export(
    target: str,
    to: Sequence[str] | None = None,
    *,
    out: str | Path | None = None,
    data: str | Path | None = None,
    weights: str = "auto",
    tolerance: float | None = None,
    push_to_hub: str | None = None,
    overrides: Sequence[str] = (),
    say: Say | None = None,
) -> dict[str, Any]:
    """Write a student in other formats, each loaded back and compared with it on tokens of the test split.

    Arguments, result and errors are those of ``kdtool.export``. Beside the files lie the tokenizer and
    ``serving.json``.
    """
    say = say or (lambda _: None)
    if weights != "auto" or push_to_hub is not None:
        given = "--weights" if weights != "auto" else "--push-to-hub"
        raise InputError(f"{given} does not apply to language models: leave it out.")
    asked = list(FORMATS) if to is None else to
    check_asked(asked, list(FORMATS), tolerance)
    found = find(target)
    folder = folder_for(target, found.path, out)
    recipe = recipe_for(found, "language", data, overrides, {}, {})
    tokens = of_folder(place_of(found))
    opened = in_tokens(read_data(recipe.data, recipe.train.steps is not None), recipe.data, tokens, tokens.size)
    student = open_target(found, tokens, tokens.size, recipe.data.max_length)
    if "onnx" in asked and 4 * parameters(student.built.module) > ROOM:
        raise InputError("--to onnx: one ONNX file holds 2 GB at most, and the network is larger: use --to program.")
    making = _Making(student, opened.test, recipe.data.max_length)
    reference = Reference(making.logits(making.own), making.labels)
    exports: dict[str, dict[str, Any]] = {}
    networks: dict[str, Network] = {"student": making.own}
    with held(folder) as apart:
        for form in dict.fromkeys(asked):
            kept = keep_if_good(
                form, folder / FORMATS[form], apart, reference, tolerance,
                needed=4 * parameters(making.served),
                write=making.writer(form),
                open_file=open_exported,
                logits=making.exported_logits,
            )  # fmt: skip
            exports[form], exported = kept
            if exported is not None:
                networks[form] = exported.run
            say(f"{form}: {'kept' if exported is not None else 'refused'}, top-1 {100 * exports[form]['top1']:.2f} %")
        for name, text in tokens.files.items():
            write_whole(folder / name, text)
        write_whole(folder / SERVING, strict_json.dumps(making.about.__dict__, indent=2, ensure_ascii=False) + "\n")
        result = {
            "target": target,
            "unit": UNIT,
            "metric": METRIC,
            "folder": str(folder),
            "machine": machine(torch.device("cpu")),
            "test": {"data": opened.name, UNIT: len(making.labels), "top1": reference.top1(reference.logits)},
            "exports": exports,
            "speed": speeds({name: making.runner(each) for name, each in networks.items()}, (1, 8)),
            "notes": list(student.notes),
            "input": f"{making.about.length} tokens",
            "hub": None,
        }
        write_whole(folder / "export.json", strict_json.dumps(result, indent=2) + "\n")
    refused = [refusal(form, each, METRIC) for form, each in exports.items() if not each["accepted"]]
    if refused:
        raise RunError("not kept: " + "; ".join(refused) + ".")
    return result


class _Making:
    """What every format is made from, and compared on.

    Args:
        student: the network.
        test: the split, of which as many samples are compared on as have ``MOST`` logits, one at least.
        longest: tokens of a text at most.
    """

    def __init__(self, student: Target, test: Split, longest: int):
        self.student, self.longest, self.usual = student, longest, usual_length(test)
        rows = MOST // student.built.num_classes
        self.few = test.take(np.arange(max(1, int(np.searchsorted(test.offsets, rows, side="right")) - 1)))
        self.served = Served(student.built.module)

    @cached_property
    def about(self) -> Serving:
        built, end = self.student.built, self.student.built.tokens.library.eos_token_id
        name, count = Path(self.student.name).resolve().name, parameters(self.served)
        return Serving(built.num_classes, self.longest, built.tokens.start, end, name, count, self.usual)

    @property
    def labels(self) -> Tensor:
        """(R,) int64 tokens that the rows are to predict."""
        return torch.from_numpy(self.few.labels)

    def own(self, ids: Tensor) -> Tensor:
        """Return the student's logits."""
        with torch.inference_mode():
            found: Tensor = self.served(ids)
            return found

    def exported_logits(self, exported: Exported) -> Tensor:
        """Return (R, V) logits of an exported file."""
        return self.logits(exported.run)

    def logits(self, network: Network) -> Tensor:
        """Return (R, V) logits of the rows, in batches of several sizes and lengths."""
        found = []
        with torch.inference_mode():
            for rows in _parts(len(self.few)):
                batch = Maker(self.few)(torch.tensor(rows), 0)
                found.append(network(batch["ids"])[batch["next"]].float().clone())
        return torch.cat(found)

    def runner(self, network: Network) -> Runner:
        """Return what times a network on texts of the usual length."""

        def runner(batch_size: int) -> Callable[[], object]:
            ids = drawn(batch_size, self.usual, self.student.built.num_classes)
            return lambda: network(ids)

        return runner

    def writer(self, form: str) -> Callable[[Path], dict[str, Any]]:
        """Return what writes a format to a path; there is nothing more to say of it."""

        def write(path: Path) -> dict[str, Any]:
            if form == "program":
                program.write_program(self._traced, path, self.about.texts())
            else:
                model = onnx_file.to_onnx(self._traced, {IDS: self._dry}, self._free)
                onnx_file.write_onnx(model, path, self.about.texts())
            return {}

        return write

    @cached_property
    def _traced(self) -> Any:
        with extra.quiet():
            return program.trace(self.served, [self._dry], self._free)

    @property
    def _dry(self) -> Tensor:
        return drawn(2, min(DRY_LENGTH, self.longest), self.student.built.num_classes)

    @cached_property
    def _free(self) -> list[dict[int, Any]]:
        return [{0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("length", min=1, max=self.longest)}]


def _parts(count: int) -> Iterator[list[int]]:
    start = 0
    for size in itertools.cycle(BATCHES):
        if start >= count:
            return
        yield list(range(start, min(start + size, count)))
        start += size
