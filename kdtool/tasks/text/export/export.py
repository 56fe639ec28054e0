"""``kdtool.export`` for text: files that run without kdtool, each compared with the student before it is kept."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdtool.errors import InputError, RunError
from kdtool.measure.profile import machine
from kdtool.recipe import load as recipes
from kdtool.system import strict_json
from kdtool.system.disk import write_whole
from kdtool.tasks.common.cost import macs, parameters
from kdtool.tasks.common.export import onnx_file, program
from kdtool.tasks.common.export.checks import POINTS, Reference, Runner, refusal, slower, speeds
from kdtool.tasks.common.export.folder import check_asked, folder_for, held, keep_if_good
from kdtool.tasks.common.export.search import search
from kdtool.tasks.common.held import HeldSplit
from kdtool.tasks.task import Say
from kdtool.tasks.text import options
from kdtool.tasks.text.data.batches import Maker
from kdtool.tasks.text.data.open import open_data
from kdtool.tasks.text.export import quantise, recurrent
from kdtool.tasks.text.export.served import Exported, Served, Serving, as_served, open_exported
from kdtool.tasks.text.export.shipped import Shipped, open_shipped
from kdtool.tasks.text.lengths import drawn, usual_length
from kdtool.tasks.text.models.built import DRY_LENGTH
from kdtool.tasks.text.models.tokens import FILE

FORMATS = {"program": "student.pt2", "onnx": "student.onnx", "onnx-int8": "student-int8.onnx"}
"""What can be made, and the file's name."""

BATCHES = (1, 3, 8, 32)
"""Sentences at once, in turn, where files are compared: batches are as long as their longest sentence."""

UNIT, METRIC = "sentences", "accuracy"

Network = Callable[[Mapping[str, Tensor]], Tensor]


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
    """Write a student in other formats, each loaded back and compared with it on the test split.

    Arguments, result and errors are those of ``kdtool.export``; the target is a run's folder or the student in one.
    Beside the files lie the tokenizer and ``serving.json``.
    """
    say = say or (lambda _: None)
    if weights != "auto" or push_to_hub is not None:
        raise InputError(f"{'--weights' if weights != 'auto' else '--push-to-hub'} does not apply to {UNIT}.")
    check_asked(to if to is not None else ["onnx"], list(FORMATS), tolerance)
    student = open_shipped(target)
    folder = folder_for(student.name, student.path, out)
    asked = to if to is not None else ["onnx"] if recurrent.has_recurrent(student.built.module) else ["program", "onnx"]
    if "program" in asked and recurrent.has_recurrent(student.built.module):
        raise InputError("--to program: torch.export fixes the length of an LSTM's or GRU's text; --to onnx does not.")
    making = _Making(student, _opened(student, data, overrides), say)
    reference = Reference(making.logits(making.own), making.labels)
    exports: dict[str, dict[str, Any]] = {}
    networks: dict[str, Network] = {"student": making.own}
    with held(folder) as apart:
        for form in dict.fromkeys(asked):
            found = keep_if_good(
                form, folder / FORMATS[form], apart, reference, tolerance,
                needed=parameters(making.served),
                write=making.writer(form, tolerance),
                open_file=open_exported,
                logits=making.exported_logits,
            )  # fmt: skip
            exports[form], exported = found
            if exported is not None:
                networks[form] = exported.run
            say(
                f"{form}: {'kept' if exported is not None else 'refused'}, accuracy {100 * exports[form]['top1']:.2f} %"
            )
        _write_beside(folder, making)
        times = speeds({name: making.runner(each) for name, each in networks.items()})
        result = {
            "target": student.name,
            "unit": UNIT,
            "metric": METRIC,
            "folder": str(folder),
            "machine": machine(torch.device("cpu")),
            "test": {"data": making.data.name, UNIT: len(making.labels), "top1": reference.top1(reference.logits)},
            "exports": exports,
            "speed": times,
            "notes": slower(times),
            "input": f"{making.length} tokens",
            "hub": None,
        }
        write_whole(folder / "export.json", strict_json.dumps(result, indent=2) + "\n")
    refused = [refusal(form, each, METRIC) for form, each in exports.items() if not each["accepted"]]
    if refused:
        raise RunError("not kept: " + "; ".join(refused) + ".")
    return result


def _opened(student: Shipped, data: str | Path | None, overrides: Sequence[str]) -> Any:
    """Return the data to compare on.

    Raises:
        InputError: an override of another section, or data of other classes.
    """
    given: dict[str, Any] = dict(map(recipes.split_override, overrides))
    if wrong := [key for key in given if not key.startswith("data.")]:
        raise InputError(f"{wrong[0]}: of the recipe's keys only those of data apply here.")
    if data is not None:
        given["data.name"] = str(data)
    recipe: Any = recipes.from_dict({**recipes.to_dict(student.recipe), **given})
    opened = open_data(recipe.data)
    if list(opened.class_names) != student.class_names:
        raise InputError(
            f"{student.name} knows the classes {', '.join(student.class_names[:8])}, {opened.name} has "
            f"{', '.join(list(opened.class_names)[:8])}: give data with the student's."
        )
    return opened


def _write_beside(folder: Path, making: _Making) -> None:
    about = {key: value for key, value in making.about.__dict__.items() if key not in ("name", "params", "macs")}
    write_whole(folder / options.SERVING, strict_json.dumps(about, indent=2, ensure_ascii=False) + "\n")
    write_whole(folder / FILE, making.student.built.tokens.files[FILE])


@dataclass
class _Making:
    """What every format is made from, and compared on."""

    student: Shipped
    data: Any
    say: Say
    kept: dict[int, list[dict[str, Tensor]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.served = Served(self.student.built)

    @cached_property
    def length(self) -> int:
        """A usual text's tokens: the 95th percentile of the test split."""
        return usual_length(self.student.built.tokens, self.data.test)

    @cached_property
    def about(self) -> Serving:
        tokens = self.student.built.tokens
        built = self.student.built
        cost = parameters(self.served), macs(built.tapped(), {tokens.digest: drawn(1, self.length, tokens.size)})
        names, inputs = self.student.class_names, list(self.served.inputs)
        name = Path(self.student.name).resolve().name
        return Serving(names, inputs, tokens.pad, tokens.max_length, tokens.size, name, *cost, self.length)

    @property
    def labels(self) -> Tensor:
        """(N,) int64 classes of the test split."""
        return torch.from_numpy(self.data.test.labels)

    def own(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the student's logits."""
        with torch.inference_mode():
            return self.served(*(inputs[name] for name in self.served.inputs))  # type: ignore[no-any-return]

    def logits(self, network: Network, split: HeldSplit | None = None) -> Tensor:
        """Return (N, K) logits of a split (default: the test split), in batches of several sizes and lengths."""
        with torch.inference_mode():
            return torch.cat([network(each).float().clone() for each in self._batches(split or self.data.test)])

    def exported_logits(self, network: Exported) -> Tensor:
        """Return (N, K) logits of an exported file on the test split."""
        return self.logits(network.run)

    def _batches(self, split: HeldSplit) -> list[dict[str, Tensor]]:
        if id(split) not in self.kept:
            tokens = self.student.built.tokens
            make = Maker(split, {tokens.digest: tokens}, None)
            found = [make(torch.tensor(rows), 0)[tokens.digest] for rows in _parts(len(split))]
            self.kept[id(split)] = [as_served(each, self.served.inputs) for each in found]
        return self.kept[id(split)]

    def runner(self, network: Network) -> Runner:
        """Return what times a network on texts of the usual length."""

        def runner(batch_size: int) -> Callable[[], object]:
            texts = self._noise(batch_size, self.length)
            return lambda: network(texts)

        return runner

    def writer(self, form: str, tolerance: float | None) -> Callable[[Path], dict[str, Any]]:
        """Return what writes a format to a path, and says what there is to say of it."""

        def write(path: Path) -> dict[str, Any]:
            if form == "program":
                program.write_program(self._traced(self.served), path, self.about.texts())
                return {}
            model, more = self.onnx_model, dict[str, Any]()
            if form == "onnx-int8":
                model, tried = self._int8(path, tolerance)
                more = {"tried": tried}
            onnx_file.write_onnx(model, path, self.about.texts())
            return more

        return write

    @cached_property
    def onnx_model(self) -> Any:
        """The fp32 model."""
        traced = self._traced(recurrent.for_onnx(self.served))
        translated = recurrent.translated()
        return onnx_file.to_onnx(traced, self._dry, self._free, translated)

    def _traced(self, module: torch.nn.Module) -> Any:
        return program.trace(module, list(self._dry.values()), self._free)

    @property
    def _dry(self) -> dict[str, Tensor]:
        return self._noise(2, min(DRY_LENGTH, self.student.built.tokens.max_length))

    def _noise(self, count: int, length: int) -> dict[str, Tensor]:
        tokens = self.student.built.tokens
        return as_served(drawn(count, length, tokens.size), self.served.inputs)

    @cached_property
    def _free(self) -> list[dict[int, Any]]:
        longest = self.student.built.tokens.max_length
        sizes = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("length", min=1, max=longest)}
        return [sizes for _ in self.served.inputs]

    def _int8(self, path: Path, tolerance: float | None) -> tuple[Any, list[dict[str, Any]]]:
        """Return the model of the setting that is chosen on validation sentences, or every tenth to train on."""
        data = self.data
        held_out = data.val is not None and data.val is not data.test
        split = data.val if held_out else data.train.take(np.flatnonzero(data.train.labels >= 0)[::10])
        expected = self.logits(self.own, split).argmax(1)

        def changed(model: Any) -> float:
            onnx_file.write_onnx(model, path, self.about.texts())
            found: Exported = open_exported(path)
            return self.logits(found.run, split).argmax(1).ne(expected).double().mean().item()

        enough = (POINTS["onnx-int8"] if tolerance is None else tolerance) / 100
        return search(
            quantise.SETTINGS, lambda each: quantise.quantised(self.onnx_model, each), changed, enough, self.say, UNIT
        )


def _parts(count: int) -> Iterator[list[int]]:
    start = 0
    for size in itertools.cycle(BATCHES):
        if start >= count:
            return
        yield list(range(start, min(start + size, count)))
        start += size
