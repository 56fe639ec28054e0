"""``kdtool.export``: files that run without kdtool, each compared with the student before it is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kdtool.errors import InputError, RunError
from kdtool.measure.profile import machine
from kdtool.system import strict_json
from kdtool.system.disk import write_whole
from kdtool.tasks.common.export import coreml_file, litert_file, onnx_file, openvino_file, program, tensorrt_file
from kdtool.tasks.common.export.checks import POINTS, NotRun, Reference, refusal, slower, speeds
from kdtool.tasks.common.export.folder import check_asked, folder_for, held, keep_if_good
from kdtool.tasks.common.matching import choose, class_map
from kdtool.tasks.common.targets import Found
from kdtool.tasks.images.data.dataset import DataSet
from kdtool.tasks.images.data.loader import Loader
from kdtool.tasks.images.data.open import open_data
from kdtool.tasks.images.evaluation.evaluate import data_recipe
from kdtool.tasks.images.evaluation.exported import INPUT, KINDS, open_exported, parts_of
from kdtool.tasks.images.evaluation.predictions import EvaluationViews, Examined
from kdtool.tasks.images.evaluation.preprocessing import Metadata, Preprocessing
from kdtool.tasks.images.evaluation.target import Target, find, open_target
from kdtool.tasks.images.export import quantise
from kdtool.tasks.images.export.hub import check_repo, push
from kdtool.tasks.images.models.dry import dry_images
from kdtool.tasks.images.models.measure import macs, parameters
from kdtool.tasks.task import Reading

FORMATS = {
    "program": "student.pt2",
    "onnx": "student.onnx",
    "onnx-fp16": "student-fp16.onnx",
    "onnx-int8": "student-int8.onnx",
    "torchao-int8": "student-torchao-int8.pt2",
    "openvino": "student.xml",
    "openvino-fp16": "student-fp16.xml",
    "litert": "student.tflite",
    "coreml": "student.mlpackage",
    "coreml-fp16": "student-fp16.mlpackage",
    "tensorrt": "student.engine",
    "tensorrt-fp16": "student-fp16.engine",
}
"""What can be made, and the file's name."""

CALIBRATION = 256
"""Training images on which int8 activations' ranges are measured."""

Say = Callable[[str], None]


def export(
    target: str | Path,
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

    An export that differs by more than its tolerance is not kept: fp32 formats by 1e-5 of the largest absolute logit,
    the others by points of top-1. The setting of int8 is chosen on the validation split (on training images without
    one), never on the test split.

    Args:
        target: a run's folder, a saved model's folder, or a model by name with ``weights``.
        to: names of ``FORMATS``; None: a program and ONNX.
        out: the folder to write to; default: ``export`` in the target's folder.
        data: as for ``kdtool.evaluate``.
        weights: of a model by name.
        tolerance: points of top-1 that fp16 and int8 may lose; default: 0.5 for fp16, 2 for int8.
        push_to_hub: OWNER/NAME of a repository for the student and its exports.
        overrides: as for ``kdtool.evaluate``.
        say: takes sentences for the user.

    Returns:
        "target", "machine", "test" (images, top1), "exports" (by format: file, bytes, how it compares, and for int8
        the settings "tried"), "speed" (by network), "hub". The same lies in ``export.json`` beside the files.

    Raises:
        InputError: something that was given is wrong, or a package is missing.
        RunError: an export differs too much and was not kept (those that do not are), or cannot be made.
    """
    say = say or (lambda _: None)
    to = ("program", "onnx") if to is None else to
    found = find(str(target))
    folder = _check(found, to, out, tolerance, push_to_hub)
    recipe = data_recipe(found, data, overrides)
    opened = open_data(recipe.data, stream=recipe.train.steps is not None)
    student = open_target(found, opened, weights, recipe=recipe)
    assert student.built is not None
    if student.built.needs_training:
        raise InputError(f"{student.name} was never trained on these classes; there is nothing to ship.")
    labels_of, names = _classes(student, opened, to)
    cpu = torch.device("cpu")
    test = Examined(
        opened, recipe.data, choose(opened, "test", "images"), recipe.train.batch_size, cpu, channels_last=False
    )
    module = program.plain_copy(student.built.module)
    student.network = student.built.tapped()
    student.network.module = module
    making = _Making(student, module, test, names, say)
    reference = Reference(making.logits(student.network), labels_of(test.labels))
    exports: dict[str, dict[str, Any]] = {}
    networks: dict[str, nn.Module] = {"student": student.network}
    with held(folder) as apart:
        for form in dict.fromkeys(to):
            exports[form], network = _make(form, folder / FORMATS[form], apart, making, reference, tolerance)
            if network is not None:
                networks[form] = network
            say(_verdict(form, exports[form]))
    times = speeds({name: _runner(each, student.preprocessing) for name, each in networks.items()})
    result = {
        "target": student.name,
        "unit": "images",
        "metric": "top-1",
        "folder": str(folder),
        "machine": machine(cpu),
        "test": {"data": opened.name, "images": len(test.labels), "top1": reference.top1(reference.logits)},
        "exports": exports,
        "speed": times,
        "notes": slower(times) + _elsewhere(exports),
        "hub": None,
    }
    write_whole(folder / "export.json", strict_json.dumps(result, indent=2) + "\n")
    refused = [refusal(form, each, "top-1") for form, each in exports.items() if not each["accepted"]]
    if refused:
        raise RunError("not kept: " + "; ".join(refused) + ".")
    if push_to_hub is not None:
        assert student.file is not None
        files = [part for form in exports for part in parts_of(folder / FORMATS[form])]
        result["hub"] = push(push_to_hub, student.file.parent, folder, files)
    return result


def _verdict(form: str, found: dict[str, Any]) -> str:
    kept = "kept" if found["accepted"] else "refused"
    top1 = f", top-1 {100 * found['top1']:.2f} %" if found["top1"] is not None else ""
    return f"{form}: {kept}{top1}" + (", not compared" if "not_compared" in found else "")


def _elsewhere(exports: Mapping[str, dict[str, Any]]) -> list[str]:
    """Return sentences on the exports that were run elsewhere than their student, or nowhere."""
    said = [f"{form}: {found['not_compared']}." for form, found in exports.items() if "not_compared" in found]
    on_card = [form for form in exports if form.startswith("tensorrt")]
    if on_card:
        said.append(f"{', '.join(on_card)} ran on {torch.cuda.get_device_name()}, the student on the processor.")
    return said


def _check(
    found: Found, to: Sequence[str], out: str | Path | None, tolerance: float | None, push_to_hub: str | None
) -> Path:
    """Return the folder to write to, after refusing what cannot be done."""
    check_asked(to, list(FORMATS), tolerance)
    if found.kind in KINDS.values():
        raise InputError(f"{found.name} is an export already: name the run or the student's folder.")
    if push_to_hub is not None:
        check_repo(push_to_hub)
        if found.kind == "model":
            raise InputError("--push-to-hub takes a run or a student's folder.")
    return folder_for(found.name, found.path, out)


def _classes(
    student: Target, data: DataSet, to: Sequence[str]
) -> tuple[Callable[[torch.Tensor], torch.Tensor | None], list[str]]:
    """Return what turns the data's labels into numbers of the logits (None: an image has not one), and their names.

    Raises:
        InputError: classes that do not match, or a format that is compared by them where an image has not one.
    """
    if student.num_classes and student.targets == "single" and data.sets is None:
        number, names = class_map(student.class_names, data, student.num_classes, student.name)
        return lambda labels: number[labels], names
    if inexact := [form for form in to if form in POINTS]:
        gives = "tells several classes of an image" if student.num_classes else "gives embeddings"
        exact = ", ".join(form for form in FORMATS if form not in POINTS)
        raise InputError(
            f"--to {inexact[0]} is compared by top-1, and {student.name} {gives}. Compared number by number: {exact}."
        )
    return lambda labels: None, list(student.class_names or [])


@dataclass
class _Making:
    """What every format is made from; the program and the fp32 ONNX model are made once."""

    student: Target
    module: nn.Module
    test: Examined
    class_names: list[str]
    say: Say
    traced: Any = None
    onnx: Any = None

    @property
    def size(self) -> int:
        return self.student.preprocessing.size

    @property
    def channels(self) -> int:
        return self.student.preprocessing.channels

    @property
    def one(self) -> torch.Tensor:
        """One image's pixels, (1, C, S, S): formats for phones have fixed sizes."""
        return dry_images(self.module, self.size, self.channels)[:1]

    @property
    def metadata(self) -> dict[str, str]:
        cost = parameters(self.module), macs(self.module, self.size, self.channels)
        return Metadata(
            self.student.preprocessing, self.class_names, Path(self.student.name).name, *cost, self.student.targets
        ).texts()

    def logits(self, network: nn.Module, examined: Examined | None = None) -> torch.Tensor:
        return (examined or self.test).logits(network, self.student.preprocessing)

    def program(self) -> Any:
        if self.traced is None:
            self.traced = traced(self.module, self.size, self.channels)
        return self.traced

    def onnx_model(self) -> Any:
        """Return a fresh copy of the fp32 ONNX model."""
        if self.onnx is None:
            images = dry_images(self.module, self.size, self.channels)
            self.onnx = onnx_file.to_onnx(self.program(), {INPUT: images}, [_free()])
        copied = type(self.onnx)()
        copied.CopyFrom(self.onnx)
        return copied

    def chosen_on(self) -> Examined:
        """Return the images that int8 settings are chosen on: validation, else every tenth of the training set."""
        data = self.test.data
        split = data.val if data.val is not None and data.val is not data.test else data.train.take(
            np.arange(0, len(data.train), 10)
        )  # fmt: skip
        return Examined(data, self.test.cfg, {"chosen on": split}, self.test.batch_size, self.test.device, False)

    def calibration(self) -> list[np.ndarray]:
        """Return batches of training images, spread over the set, as the network takes them."""
        data, cfg = self.test.data, self.test.cfg
        positions = np.unique(np.linspace(0, len(data.train) - 1, CALIBRATION).astype(np.int64))
        views = EvaluationViews(cfg, self.student.preprocessing)
        batches = Loader(
            data.train.take(positions), views, Reading(32, 0, self.test.device, train=False, channels_last=False),
            num_classes=len(data.class_names), workers=cfg.workers, memory_budget_gb=cfg.memory_budget_gb,
        )  # fmt: skip
        return [batch.inputs.numpy() for batch in batches.epoch(0)]


def _make(
    form: str, place: Path, apart: Path, making: _Making, reference: Reference, tolerance: float | None
) -> tuple[dict[str, Any], nn.Module | None]:
    """Write one export, compare it and keep it if it is good: see ``keep_if_good``."""
    return keep_if_good(
        form, place, apart, reference, tolerance,
        needed=parameters(making.module),
        write=lambda path: _write(form, path, making, tolerance),
        open_file=lambda path: _opened(path, making),
        logits=making.logits,
    )  # fmt: skip


def _opened(path: Path, making: _Making) -> nn.Module | NotRun:
    """Load an export back as a network; where none runs it, read it back.

    Raises:
        RunError: it is not what was to be written.
    """
    if path.suffix != coreml_file.SUFFIX or coreml_file.runs_here():
        return open_exported(path)[0]
    shape, weights, said = coreml_file.read_back(path, INPUT, onnx_file.OUTPUT)
    if shape != tuple(making.one.shape) or any(said.get(key) != text for key, text in making.metadata.items()):
        raise RunError(f"Core ML wrote a package that takes {shape}, or lost what it says of itself.")
    return NotRun(f"{coreml_file.ELSEWHERE} ({weights:,} weights, the student has {parameters(making.module):,})")


def _write(form: str, path: Path, making: _Making, tolerance: float | None) -> dict[str, Any]:
    """Write one format; return what there is to say of it."""
    if form == "program":
        program.write_program(making.program(), path, making.metadata)
    elif form.startswith("openvino"):
        half = form == "openvino-fp16"
        openvino_file.write_openvino(making.program(), path, making.metadata, INPUT, onnx_file.OUTPUT, half)
    elif form == "litert":
        litert_file.write_litert(making.module, making.one, path, making.metadata, INPUT, onnx_file.OUTPUT)
    elif form.startswith("coreml"):
        alone, half = program.trace(making.module, [making.one], [{}]), form == "coreml-fp16"
        shape = tuple(making.one.shape)
        coreml_file.write_coreml(alone, shape, path, making.metadata, INPUT, onnx_file.OUTPUT, half)
    elif form.startswith("tensorrt"):
        model = making.onnx_model()
        model = onnx_file.to_fp16(model) if form == "tensorrt-fp16" else model
        tensorrt_file.write_tensorrt(model, path, making.metadata)
    elif form == "torchao-int8":
        quantised = program.quantised_by_torchao(program.plain_copy(making.module))
        program.write_program(traced(quantised, making.size, making.channels), path, making.metadata)
    elif form == "onnx-int8":
        model, tried = _int8(path, making, tolerance)
        onnx_file.write_onnx(model, path, making.metadata)
        return {"tried": tried}
    else:
        model = making.onnx_model()
        onnx_file.write_onnx(onnx_file.to_fp16(model) if form == "onnx-fp16" else model, path, making.metadata)
    return {}


def traced(module: nn.Module, size: int, channels: int = 3) -> Any:
    """Return the program (B, channels, size, size) -> (B, K) of a module, for any B from 1 on."""
    return program.trace(module, [dry_images(module, size, channels)], [_free()])


def _free() -> dict[int, Any]:
    return {0: torch.export.Dim("batch", min=1)}


def _runner(network: nn.Module, how: Preprocessing) -> Callable[[int], Callable[[], object]]:
    def runner(batch_size: int) -> Callable[[], object]:
        shape = batch_size, how.channels, how.size, how.size
        images = torch.randn(shape, generator=torch.Generator().manual_seed(0))

        def run() -> object:
            with torch.inference_mode():
                return network(images)

        return run

    return runner


def _int8(path: Path, making: _Making, tolerance: float | None) -> tuple[Any, list[dict[str, Any]]]:
    examined = making.chosen_on()
    expected = making.logits(making.student.network, examined).argmax(1)

    def changed(model: Any) -> float:
        onnx_file.write_onnx(model, path, making.metadata)
        network, _ = open_exported(path)
        return making.logits(network, examined).argmax(1).ne(expected).double().mean().item()

    enough = (POINTS["onnx-int8"] if tolerance is None else tolerance) / 100
    return quantise.chosen(making.onnx_model(), making.calibration(), changed, enough, making.say)
