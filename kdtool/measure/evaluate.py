"""``kdtool.evaluate`` and ``kdtool.export``: whichever task a network is of measures and ships it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdtool.errors import RunError
from kdtool.runs.folder import RECIPE
from kdtool.runs.student import ROBUSTNESS
from kdtool.runs.tasks import signed, task_of
from kdtool.system import strict_json
from kdtool.system.disk import write_whole
from kdtool.tasks.task import Say


def evaluate(
    target: str | Path,
    data: str | Path | None = None,
    *,
    task: str | None = None,
    split: str | None = None,
    teacher: str | Path | None = None,
    weights: str = "auto",
    image_size: int | None = None,
    corrupt: Sequence[str] = (),
    bias: Mapping[str, float] | None = None,
    predictions: str | Path | None = None,
    generate: int | None = None,
    new_tokens: int | None = None,
    answer: str | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    overrides: Sequence[str] = (),
    say: Say | None = None,
) -> dict[str, Any]:
    """Measure a network on data.

    Args:
        target: a run's folder, a saved model's folder, a model's name or architecture, or an exported file.
        data: as ``data.name`` of a recipe; default: the data of the run that the target is or lies in.
        task: what the network is of; default: the run's, else the default one.
        split: "test", "val", "train" or "all"; default: "test", and "all" of ``data`` that have no split to test on.
        teacher: a target to compare with; default: the run's own teachers.
        weights, image_size: of a model that is given by name; the latter of images only.
        corrupt: corruptions, each "kind" or "kind:severity"; for a run on its own data what comes out is kept in the
            run's folder as ``robustness.json``, for its page.
        bias: what to add to a class's logit, by the class's name or number.
        predictions: a parquet or .csv file to write.
        generate, new_tokens, answer: of language models, how many prompts they answer, how long at most, and how final
            answers are found in what they write.
        batch_size, device: default: as in the run.
        overrides: texts ``data.key=value``, and ``student.model_args.key=value`` for a model by name.
        say: takes sentences for the user.

    Returns:
        Plain data: "task", "metric" (see ``Metric``: the task's first figure), "target", "data" (of it "name", "split",
        "unit": what samples are called, "samples": how many, and "inputs": how they were shown, such as "at 32x32"),
        "metrics", and what the task adds: "teachers" and "notes"; for a classification "calibration", "per_class",
        "confusion", "robustness", "bias" and "predictions";
        for language models "answers".

    Raises:
        InputError: something that was given is wrong, or the task cannot do it.
    """
    given = {
        "split": split, "teacher": teacher, "weights": weights, "image_size": image_size, "corrupt": corrupt,
        "bias": bias, "predictions": predictions, "generate": generate, "new_tokens": new_tokens,
        "answer": answer, "batch_size": batch_size, "device": device, "overrides": overrides,
        "say": say,
    }  # fmt: skip
    left_open: dict[str, Any] = {"weights": "auto"}
    asked = {key: value for key, value in given.items() if value not in (None, (), [], {}, left_open.get(key))}
    of = task_of(target, task)
    found = of.evaluate(str(target), None if data is None else str(data), **asked)
    if found.get("robustness") and data is None and (Path(target) / RECIPE).is_file():
        with contextlib.suppress(RunError):  # somebody else's run
            write_whole(Path(target) / ROBUSTNESS, strict_json.dumps(found["robustness"], indent=2) + "\n")
    return signed(of, found)


def export(
    target: str | Path,
    to: Sequence[str] | None = None,
    *,
    task: str | None = None,
    out: str | Path | None = None,
    data: str | Path | None = None,
    weights: str = "auto",
    tolerance: float | None = None,
    push_to_hub: str | None = None,
    overrides: Sequence[str] = (),
    say: Say | None = None,
) -> dict[str, Any]:
    """Write a student in other formats, each loaded back and compared with it on the test split.

    Args:
        target: a run's folder, a saved model's folder, or a model by name with ``weights``.
        to: formats; default: the task's usual ones, a torch.export program and ONNX.
        task: what the student is of; default: the run's, else the default one.
        out: the folder to write to; default: ``export`` in the target's folder.
        data: as for ``evaluate``.
        weights: of a model by name.
        tolerance: points of accuracy that reduced precisions may lose.
        push_to_hub: OWNER/NAME of a repository for the student and its exports.
        overrides: texts ``data.key=value``.
        say: takes sentences for the user.

    Returns:
        "target", "unit", "metric", "machine", "test", "exports", "speed", "notes" and "hub"; the same lies in
        ``export.json`` beside the files.

    Raises:
        InputError: something that was given is wrong, a package is missing, or the task has no exports.
        RunError: an export differs too much and was not kept (those that do not are), or cannot be made.
    """
    given = {
        "out": out, "data": data, "weights": None if weights == "auto" else weights, "tolerance": tolerance,
        "push_to_hub": push_to_hub, "overrides": overrides, "say": say,
    }  # fmt: skip
    asked = {key: value for key, value in given.items() if value not in (None, (), [])}
    return task_of(target, task).export(str(target), to, **asked)
