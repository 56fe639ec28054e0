"""``kdtool.evaluate``: a network, data, and every number about the two."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from kdtool.engine.precision import pick_device
from kdtool.errors import InputError
from kdtool.tasks.common import evaluation as common
from kdtool.tasks.common import multilabel
from kdtool.tasks.common import plain_evaluation as plain
from kdtool.tasks.common.embeddings import Embeddings
from kdtool.tasks.common.matching import choose, usual_split
from kdtool.tasks.common.multilabel import MultiLabel
from kdtool.tasks.common.predictions_file import check_predictions, columns_of
from kdtool.tasks.common.targets import Found, recipe_for, trained_on
from kdtool.tasks.images.data.dataset import DataSet
from kdtool.tasks.images.data.open import open_data
from kdtool.tasks.images.evaluation.corruptions import Corruption
from kdtool.tasks.images.evaluation.exported import size_of
from kdtool.tasks.images.evaluation.predictions import Examined, write
from kdtool.tasks.images.evaluation.target import MODEL_KEYS, Target, find, open_target
from kdtool.tasks.images.evaluation.teachers import own_teachers
from kdtool.tasks.images.models.measure import macs, parameters
from kdtool.tasks.images.options import Recipe, Student

Say = Callable[[str], None]


def evaluate(
    target: str | Path,
    data: str | Path | None = None,
    *,
    split: str | None = None,
    teacher: str | Path | None = None,
    weights: str = "auto",
    image_size: int | None = None,
    corrupt: Sequence[str] = (),
    bias: Mapping[str, float] | None = None,
    predictions: str | Path | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    overrides: Sequence[str] = (),
    keep: Callable[[Examined, Tensor, Tensor, list[str]], None] | None = None,
    say: Say | None = None,
) -> dict[str, Any]:
    """Measure a network on data.

    Args:
        target: a run's folder, a saved model's folder, a model's name or architecture, or an exported file.
        data: as ``data.name`` of a recipe; default: the data of the run that the target is or lies in.
        split: "test", "val", "train" or "all"; default: "test", and "all" of ``data`` that have no split to test on.
        teacher: a target to compare with; default: the run's own teachers.
        weights, image_size: of a model that is given by name.
        corrupt: corruptions, each "kind" or "kind:severity".
        bias: what to add to a class's logit, by the class's name or number.
        predictions: a parquet or .csv file to write.
        batch_size, device: default: as in the run.
        overrides: texts ``data.key=value``; for a model by name also ``student.model_args.key=value``, and
            ``student.mean=…`` and the like, which say what its weights expect of their input.
        keep: takes the images, the network's (N, K) logits, (N,) labels in their order, and the K names, where an
            image has one class.
        say: takes sentences for the user.

    Returns:
        Plain data: "target", "data", "metrics", "calibration", "per_class", "confusion", "teachers", "robustness",
        "bias", "predictions" and "notes". Of embeddings, and where an image has several classes,
        "metric" names the first of the metrics, and what goes by one class an image is left out.

    Raises:
        InputError: something that was given is wrong.
    """
    say = say or (lambda _: None)
    corruptions = [Corruption.parse(text) for text in corrupt]
    if predictions is not None:
        check_predictions(Path(predictions))
    found = find(str(target))
    recipe = data_recipe(found, data, overrides, {"train.batch_size": batch_size, "train.device": device})
    opened = open_data(recipe.data, stream=recipe.train.steps is not None, measuring=not trained_on(found, data))
    usual, said = usual_split(opened, trained_on(found, data))
    said, split = ([], split) if split is not None else (said, usual)
    student = open_target(found, opened, weights, image_size, recipe)
    _refuse_other_targets(student, opened)
    student.notes += said + _unheard(recipe, student)
    for note in student.notes:
        say(note)
    examined = Examined(
        opened,
        recipe.data,
        choose(opened, split, "images"),
        recipe.train.batch_size,
        pick_device(recipe.train.device),
        recipe.train.channels_last,
    )
    with_teacher, notes = _teachers(found, recipe, examined, student, teacher, data is None)
    labels, size = examined.labels, student.preprocessing.size
    about_data = {
        "name": opened.name,
        "split": split,
        "unit": "images",
        "samples": len(labels),
        "images": len(labels),
        "classes": len(opened.class_names),
        "image_size": size,
        "inputs": f"at {size}x{size}",
    }
    if not student.num_classes or opened.sets is not None:
        given = {"--bias": bias, "--predictions": predictions}
        result, columns = _plain(student, with_teacher, examined, about_data, corruptions, given)
    else:
        evaluation = common.evaluate(
            _measured(student, examined),
            [_measured(each, examined) for each in with_teacher],
            opened,
            labels,
            about_data,
            corruptions=corruptions,
            bias=bias,
        )
        result = evaluation.document
        columns = columns_of(evaluation.logits, evaluation.labels, evaluation.names)
    result["notes"] = [*student.notes, *notes]
    if keep is not None:
        keep(examined, evaluation.logits, evaluation.labels, evaluation.names)
    if predictions is not None:
        write(Path(predictions), examined, columns)
        result["predictions"] = str(predictions)
    for note in notes:
        say(note)
    return result


def data_recipe(
    found: Found, data: str | Path | None, overrides: Sequence[str], flags: Mapping[str, Any] | None = None
) -> Recipe:
    """Return the recipe whose section ``data`` says what to measure on; see ``recipe_for``."""
    but = {"data.image_size": "the input's size is the network's; --image-size says that of a model by name"}
    return cast(Recipe, recipe_for(found, "images", data, overrides, flags, but, (*MODEL_KEYS, "train.channels_last")))


def _unheard(recipe: Recipe, student: Target) -> list[str]:
    """Return a sentence where ``data.mean`` or ``data.std`` is not what the network is given."""
    how, asked = student.preprocessing, (recipe.data.mean, recipe.data.std)
    own = (how.mean, how.std)
    if all(value is None or tuple(value) == norm for value, norm in zip(asked, own, strict=True)):
        return []
    model = "; student.mean and student.std replace it" if student.kind == "model" else ""
    return [f"data.mean and data.std are not used: {student.name} comes with a normalisation of its own{model}"]


def _refuse_other_targets(student: Target, data: DataSet) -> None:
    if student.num_classes and (student.targets == "multi") > (data.sets is not None):
        raise InputError(f"{student.name} tells several classes of an image: data.targets=multi reads them.")


def _plain(
    student: Target,
    teachers: list[Target],
    examined: Examined,
    about_data: dict[str, Any],
    corruptions: Sequence[Corruption],
    given: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Return what is found of networks that give embeddings, or tell several classes of an image.

    Also returns the latter's predictions, by column.
    """
    data, labels = examined.data, examined.labels
    networks = [_measured(each, examined) for each in (student, *teachers)]
    if not student.num_classes:
        plain.refuse(given, f"{student.name} gives embeddings")
        embeddings = Embeddings(bool((labels >= 0).any()))
        found, _ = plain.evaluate(
            networks[0], networks[1:], embeddings, data, labels, about_data, corruptions=corruptions
        )
        return found, {}
    assert data.sets is not None
    several, names = MultiLabel(data.sets), data.class_names
    targets = several.sets[labels]

    def per_class(logits: Tensor) -> list[dict[str, Any]]:
        return multilabel.per_class(logits, targets, names)

    found, logits = plain.evaluate(
        networks[0], networks[1:], several, data, labels, about_data, per_class,
        corruptions=corruptions, bias=given["--bias"],
    )  # fmt: skip
    return found, multilabel.columns_of(logits, targets, names)


def _measured(target: Target, examined: Examined) -> common.Measured:
    def logits(corruption: Corruption | None) -> Tensor:
        return examined.logits(target.network, target.preprocessing, corruption)

    return common.Measured(target.name, target.class_names, target.num_classes, about(target), logits)


def about(target: Target) -> dict[str, Any]:
    """Return what a target is: name, kind, parameters, MACs and bytes, None where unknown."""
    built, said = target.built, target.metadata
    return {
        "name": target.name,
        "kind": target.kind,
        "model": built.name if built is not None else None,
        "params": parameters(built.module) if built is not None else said and said.params,
        "macs": macs(built.module, built.image_size, built.channels) if built is not None else said and said.macs,
        "bytes": size_of(target.file) if target.file is not None else None,
        "classes": target.num_classes,
    }


def _teachers(
    found: Found, recipe: Recipe, examined: Examined, student: Target, named: str | Path | None, own_data: bool
) -> tuple[list[Target], list[str]]:
    """Return the networks to compare with, and sentences on those that cannot be had."""
    if named is not None:
        place = find(str(named))
        return [open_target(place, examined.data, recipe=dataclasses.replace(recipe, student=Student()))], []
    if found.recipe is None or not found.recipe.teacher:
        return [], []
    if not own_data:
        return [], ["other data than the run's: --teacher names what to compare with"]
    # Overrides may change the data; what the teacher learnt from is the run's.
    same = found.recipe.data == recipe.data
    data = examined.data if same else open_data(found.recipe.data, stream=recipe.train.steps is not None)
    return own_teachers(found.recipe, data, student.preprocessing)
