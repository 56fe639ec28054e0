"""``kdtool.evaluate`` for texts: a network, data, and every number about the two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from kdtool.engine.precision import pick_device
from kdtool.errors import InputError
from kdtool.tasks.common import evaluation as common
from kdtool.tasks.common import measures
from kdtool.tasks.common.matching import choose, usual_split
from kdtool.tasks.common.predictions_file import check_predictions
from kdtool.tasks.common.targets import Found, find, recipe_for, trained_on
from kdtool.tasks.task import Say
from kdtool.tasks.text.data.open import open_data
from kdtool.tasks.text.evaluation.corruptions import Corruption
from kdtool.tasks.text.evaluation.examined import Examined, write
from kdtool.tasks.text.evaluation.target import Target, open_target
from kdtool.tasks.text.evaluation.teachers import own_teachers

UNIT = "sentences"


def evaluate(
    target: str | Path,
    data: str | Path | None = None,
    *,
    split: str | None = None,
    teacher: str | Path | None = None,
    weights: str = "auto",
    corrupt: Sequence[str] = (),
    bias: Mapping[str, float] | None = None,
    predictions: str | Path | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    overrides: Sequence[str] = (),
    say: Say | None = None,
    **others: Any,
) -> dict[str, Any]:
    """Measure a network on data.

    Args:
        target: a run's folder, a saved model's folder, or a model's name or architecture.
        data: as ``data.name`` of a recipe; default: the data of the run that the target is or lies in.
        split: "test", "val", "train" or "all"; default: "test", and "all" of ``data`` that have no split to test on.
        teacher: a target to compare with; default: the run's own teachers.
        weights: of a model that is given by name.
        corrupt: corruptions, each "kind" or "kind:severity".
        bias: what to add to a class's logit, by the class's name or number.
        predictions: a parquet or .csv file to write.
        batch_size, device: default: as in the run.
        overrides: texts ``data.key=value``, and ``student.model_args.key=value`` for a model by name.
        say: takes sentences for the user.
        others: what other tasks take: refused by name.

    Returns:
        Plain data: "target", "data", "metrics", "calibration", "per_class", "confusion", "teachers", "robustness",
        "bias", "predictions" and "notes".

    Raises:
        InputError: something that was given is wrong.
    """
    refuse_others(others)
    say = say or (lambda _: None)
    corruptions = [Corruption.parse(text) for text in corrupt]
    if predictions is not None:
        check_predictions(Path(predictions))
    found = find(str(target))
    flags = {"train.batch_size": batch_size, "train.device": device}
    recipe = data_recipe(found, data, overrides, weights, flags)
    opened = open_data(recipe.data)
    usual, said = usual_split(opened, trained_on(found, data))
    said, split = ([], split) if split is not None else (said, usual)
    student = open_target(found, opened, recipe, weights)
    if student.pairs and opened.texts.second is None:
        raise InputError(
            f"{student.name} was trained on pairs of texts, and {opened.name} has single ones: data.text names the two "
            "columns of a pair."
        )
    examined = Examined(
        opened, recipe.data, choose(opened, split, UNIT), recipe.train.batch_size, pick_device(recipe.train.device)
    )
    student.notes += said
    for note in student.notes:
        say(note)
    teachers, notes = _teachers(found, recipe, opened, teacher, data is None)
    labels, longest = examined.labels, student.built.tokens.max_length
    about_data = {
        "name": opened.name,
        "split": split,
        "unit": UNIT,
        "samples": len(labels),
        "classes": len(opened.class_names),
        "max_length": longest,
        "inputs": f"of at most {longest} tokens",
    }
    evaluation = common.evaluate(
        _measured(student, examined),
        [_measured(each, examined) for each in teachers],
        opened,
        labels,
        about_data,
        corruptions=corruptions,
        bias=bias,
        further=_further,
    )
    result = evaluation.document
    bad = opened.faults()
    result["notes"] = [*student.notes, *notes, *([bad] if bad else [])]
    if predictions is not None:
        write(Path(predictions), examined, evaluation.logits, evaluation.labels, evaluation.names)
        result["predictions"] = str(predictions)
    for note in result["notes"][len(student.notes) :]:
        say(note)
    return result


def refuse_others(others: Mapping[str, Any]) -> None:
    """Refuse options that are for other tasks.

    Raises:
        InputError: there is one.
    """
    for name in others:
        raise InputError(f"--{name.replace('_', '-')} does not apply to {UNIT}: leave it out.")


def data_recipe(
    found: Found, data: str | Path | None, overrides: Sequence[str], weights: str, flags: Mapping[str, Any]
) -> Any:
    """Return the recipe whose section ``data`` says what to measure on; see ``recipe_for``."""
    own = "it comes with the network"
    but = {} if found.kind == "model" else {"data.max_length": own, "data.vocab_size": own}
    more = {"student.weights": weights} if found.kind == "model" else {}
    return recipe_for(found, "text", data, overrides, {**flags, **more}, but, ["student.weights_key"])


def _measured(target: Target, examined: Examined) -> common.Measured:
    def logits(corruption: Corruption | None) -> Tensor:
        return examined.logits(target.built, corruption)

    return common.Measured(target.name, target.class_names, target.built.num_classes, target.about, logits)


def _further(logits: Tensor, labels: Tensor) -> dict[str, float]:
    return {"mcc": measures.matthews(logits, labels)}


def _teachers(
    found: Found, recipe: Any, data: Any, named: str | Path | None, own_data: bool
) -> tuple[list[Target], list[str]]:
    """Return the networks to compare with, and sentences on those that cannot be had."""
    if named is not None:
        return [open_target(find(str(named)), data)], []
    if found.recipe is None or not found.recipe.teacher:
        return [], []
    if not own_data:
        return [], ["other data than the run's: --teacher names what to compare with"]
    # Overrides may change the data; what the teacher learnt from is the run's.
    same = found.recipe.data == recipe.data
    return own_teachers(found.recipe, data if same else open_data(found.recipe.data))
