"""``kdtool.evaluate``: a network, data, and every number about the two."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from kdtool.engine.precision import pick_device
from kdtool.errors import InputError, did_you_mean
from kdtool.recipe import load as recipes
from kdtool.tasks.common import measures
from kdtool.tasks.common.classification import Classification
from kdtool.tasks.images.data.open import open_data
from kdtool.tasks.images.evaluation.corruptions import Corruption
from kdtool.tasks.images.evaluation.predictions import Examined, check_predictions, choose, class_map, write_predictions
from kdtool.tasks.images.evaluation.target import Found, Target, find, open_target
from kdtool.tasks.images.evaluation.teachers import own_teachers
from kdtool.tasks.images.models.measure import macs, parameters
from kdtool.tasks.images.options import Recipe

Say = Callable[[str], None]


def evaluate(
    target: str | Path,
    data: str | Path | None = None,
    *,
    split: str = "test",
    teacher: str | Path | None = None,
    weights: str = "auto",
    image_size: int | None = None,
    corrupt: Sequence[str] = (),
    bias: Mapping[str, float] | None = None,
    predictions: str | Path | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    overrides: Sequence[str] = (),
    say: Say | None = None,
) -> dict[str, Any]:
    """Measure a network on data.

    Args:
        target: a run's folder, a saved model's folder, a model's name or architecture, or an exported file.
        data: as ``data.name`` of a recipe; default: the data of the run that the target is or lies in.
        split: "test", "val", "train" or "all".
        teacher: a target to compare with; default: the run's own teachers.
        weights, image_size: of a model that is given by name.
        corrupt: corruptions, each "kind" or "kind:severity".
        bias: what to add to a class's logit, by the class's name or number.
        predictions: a parquet file to write.
        batch_size, device: default: as in the run.
        overrides: texts ``data.key=value``, and ``student.model_args.key=value`` for a model by name.
        say: takes sentences for the user.

    Returns:
        Plain data: "target", "data", "metrics", "calibration", "per_class", "confusion", "teachers", "robustness",
        "bias", "predictions" and "notes".

    Raises:
        InputError: something that was given is wrong.
    """
    say = say or (lambda _: None)
    corruptions = [Corruption.parse(text) for text in corrupt]
    if predictions is not None:
        check_predictions(Path(predictions))
    found = find(str(target))
    recipe = recipe_for(found, data, overrides, {"train.batch_size": batch_size, "train.device": device})
    opened = open_data(recipe.data, stream=recipe.train.steps is not None)
    student = open_target(
        found, opened, weights, recipe.student.model_args if found.kind == "model" else None, image_size
    )
    number, names = class_map(student.class_names, opened, student.num_classes, student.name)
    shift = bias_vector(bias or {}, names)
    examined = Examined(
        opened,
        recipe.data,
        choose(opened, split),
        recipe.train.batch_size,
        pick_device(recipe.train.device),
        recipe.train.channels_last,
    )
    for note in student.notes:
        say(note)
    labels = number[examined.labels]
    logits = examined.logits(student.network, student.preprocessing) + shift
    task = Classification(student.num_classes)
    with_teacher, notes = _teachers(found, recipe, examined, student, teacher, data is None)
    result: dict[str, Any] = {
        "target": about(student),
        "data": {
            "name": opened.name,
            "split": split,
            "images": len(labels),
            "classes": len(opened.class_names),
            "image_size": student.preprocessing.size,
        },
        "metrics": _metrics(task, logits, labels),
        "calibration": measures.calibration(logits, labels),
        "per_class": measures.per_class(logits, labels, names),
        "confusion": {"classes": names, "counts": measures.confusion(logits, labels, len(names)).tolist()},
        "teachers": [_beside(each, examined, logits, labels, names, task) for each in with_teacher],
        "robustness": [],
        "bias": {name: value for name, value in zip(names, shift.tolist(), strict=True) if value},
        "predictions": str(predictions) if predictions is not None else None,
        "notes": [*student.notes, *notes],
    }
    for corruption in corruptions:
        worse = examined.logits(student.network, student.preprocessing, corruption) + shift
        metrics = _metrics(task, worse, labels)
        drop = round(100 * (result["metrics"]["top1"] - metrics["top1"]), 4)
        result["robustness"].append(
            {"corruption": corruption.kind, "severity": corruption.severity, **metrics, "drop_points": drop}
        )
    if predictions is not None:
        write_predictions(Path(predictions), examined, logits, labels, names)
    for note in notes:
        say(note)
    return result


def recipe_for(
    found: Found, data: str | Path | None, overrides: Sequence[str], flags: Mapping[str, Any] | None = None
) -> Recipe:
    """Return the recipe whose section ``data`` says what to measure on.

    Args:
        found: the target.
        data: names other data than the run's own; None: that.
        overrides: texts ``data.key=value`` (``student.model_args.key=value`` for a model by name).
        flags: further values by key; None: as it is.

    Raises:
        InputError: neither names any data, or an override that does not apply.
    """
    model = found.kind == "model"
    for text in overrides:
        key, _ = recipes.split_override(text)
        if not key.startswith(("data.", "student.model_args.") if model else ("data.",)) or key == "data.image_size":
            raise InputError(
                f"{text}: of the recipe's keys only those of data{' and student.model_args' if model else ''} apply "
                "here (not data.image_size: the input's size is the network's)."
            )
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    if data is None and found.recipe is not None:
        plain = recipes.to_dict(found.recipe)
        return cast(Recipe, recipes.from_dict({**plain, **given, **dict(map(recipes.split_override, overrides))}))
    if data is None:
        raise InputError(f"{found.name} belongs to no run, so name the data to measure it on: --data.")
    flat = {"method": "none", "data.name": str(data), "student.model": found.name if model else None, **given}
    flags = {key: value for key, value in flat.items() if value is not None}
    return cast(Recipe, recipes.load(None, overrides, flags))


def bias_vector(bias: Mapping[str, float], names: Sequence[str]) -> Tensor:
    """Return (K,) what is added to the logits.

    Raises:
        InputError: there is no such class, or a value is not finite.
    """
    shift = torch.zeros(len(names))
    for name, value in bias.items():
        if not math.isfinite(value):
            raise InputError(f"--bias {name}={value:g}: the value is a finite number, such as -0.5.")
        if name in names:
            shift[list(names).index(name)] = value
        elif name.isdecimal() and int(name) < len(names):
            shift[int(name)] = value
        else:
            raise InputError(f"--bias {name}={value:g}: there is no such class. {did_you_mean(name, names)}")
    return shift


def about(target: Target) -> dict[str, Any]:
    """Return what a target is: name, kind, parameters, MACs and bytes, None where unknown."""
    built, said = target.built, target.metadata
    return {
        "name": target.name,
        "kind": target.kind,
        "model": built.name if built is not None else None,
        "params": parameters(built.module) if built is not None else said and said.params,
        "macs": macs(built.module, built.image_size) if built is not None else said and said.macs,
        "bytes": target.file.stat().st_size if target.file is not None else None,
        "classes": target.num_classes,
    }


def _metrics(task: Classification, logits: Tensor, labels: Tensor) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of predicted classes that no label has
        return task.metrics(logits, labels)


def _teachers(
    found: Found, recipe: Recipe, examined: Examined, student: Target, named: str | Path | None, own_data: bool
) -> tuple[list[Target], list[str]]:
    """Return the networks to compare with, and sentences on those that cannot be had."""
    if named is not None:
        place = find(str(named))
        return [open_target(place, examined.data)], []
    if found.recipe is None or not found.recipe.teacher:
        return [], []
    if not own_data:
        return [], ["other data than the run's: --teacher names what to compare with"]
    # Overrides may change the data; what the teacher learnt from is the run's.
    same = found.recipe.data == recipe.data
    data = examined.data if same else open_data(found.recipe.data, stream=recipe.train.steps is not None)
    return own_teachers(found.recipe, data, student.preprocessing)


def _beside(
    teacher: Target,
    examined: Examined,
    logits: Tensor,
    labels: Tensor,
    names: Sequence[str],
    task: Classification,
) -> dict[str, Any]:
    """Return a teacher's own metrics, and how far the student agrees with it."""
    _, known = class_map(teacher.class_names, examined.data, teacher.num_classes, teacher.name)
    if sorted(known) != sorted(names):
        raise InputError(f"--teacher {teacher.name} is of other classes than the network that is measured.")
    column = {name: i for i, name in enumerate(known)}
    theirs = examined.logits(teacher.network, teacher.preprocessing)[:, [column[name] for name in names]]
    return {
        **about(teacher),
        "metrics": _metrics(task, theirs, labels),
        "calibration": measures.calibration(theirs, labels),
        "per_class": measures.per_class(theirs, labels, names),
        **measures.agreement(logits, theirs),
    }
