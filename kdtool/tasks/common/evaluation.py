"""All that ``kdtool eval`` says of a classification, whatever is classified: computed from networks' logits."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from kdtool.errors import InputError, did_you_mean
from kdtool.tasks.common import measures
from kdtool.tasks.common.classification import Classification
from kdtool.tasks.common.matching import class_map


class Corruption(Protocol):
    """Damage of one kind, severity 1 to 5."""

    @property
    def kind(self) -> str: ...
    @property
    def severity(self) -> int: ...


@dataclass(frozen=True)
class Measured:
    """A network that is measured.

    Attributes:
        name: as it was given.
        class_names: in the order of the logits; None where it does not say.
        num_classes: K.
        about: what tables show of it: name, kind, parameters, MACs and bytes.
        logits: given a corruption or None, returns (N, K) logits of the samples.
    """

    name: str
    class_names: Sequence[str] | None
    num_classes: int
    about: Mapping[str, Any]
    logits: Callable[[Any], Tensor]


@dataclass(frozen=True)
class Evaluation:
    """What was found.

    Attributes:
        document: plain data.
        logits: (N, K) of the student.
        labels: (N,) int64 in the order of the logits' classes.
        names: of the K classes.
    """

    document: dict[str, Any]
    logits: Tensor
    labels: Tensor
    names: list[str]


Further = Callable[[Tensor, Tensor], Mapping[str, Any]]
"""Metrics of (N, K) logits and (N,) labels beyond those that a run has."""


def evaluate(
    student: Measured,
    teachers: Sequence[Measured],
    data: Any,
    labels: Tensor,
    about_data: Mapping[str, Any],
    *,
    corruptions: Sequence[Corruption] = (),
    bias: Mapping[str, float] | None = None,
    further: Further | None = None,
) -> Evaluation:
    """Return what is found of a student, and of teachers beside it.

    Args:
        student, teachers: the networks.
        data: the data set, for its class names.
        labels: (N,) int64 classes of the data.
        about_data: what is said of the samples: "name", "split", "unit", "samples", ...
        corruptions: each measured as well.
        bias: what to add to a class's logit, by the class's name or number.
        further: more metrics.

    Raises:
        InputError: classes that do not match, or a bias of none.
    """
    number, names = class_map(student.class_names, data, student.num_classes, student.name)
    shift, task = bias_vector(bias or {}, names), Classification(student.num_classes)
    labels = number[labels]
    logits = student.logits(None) + shift

    def metrics(found: Tensor) -> dict[str, Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of predicted classes that no label has
            return {**task.metrics(found, labels), **(further(found, labels) if further is not None else {})}

    document: dict[str, Any] = {
        "target": dict(student.about),
        "data": dict(about_data),
        "metrics": metrics(logits),
        "calibration": measures.calibration(logits, labels),
        "per_class": measures.per_class(logits, labels, names),
        "confusion": {"classes": names, "counts": measures.confusion(logits, labels, len(names)).tolist()},
        "teachers": [_beside(each, data, logits, labels, names, metrics) for each in teachers],
        "robustness": [],
        "bias": {name: value for name, value in zip(names, shift.tolist(), strict=True) if value},
        "predictions": None,
        "notes": [],
    }
    for corruption in corruptions:
        worse = metrics(student.logits(corruption) + shift)
        drop = round(100 * (document["metrics"]["top1"] - worse["top1"]), 4)
        document["robustness"].append(
            {"corruption": corruption.kind, "severity": corruption.severity, **worse, "drop_points": drop}
        )
    return Evaluation(document, logits, labels, names)


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


def _beside(
    teacher: Measured,
    data: Any,
    logits: Tensor,
    labels: Tensor,
    names: Sequence[str],
    metrics: Callable[[Tensor], dict[str, Any]],
) -> dict[str, Any]:
    """Return a teacher's own metrics, and how far the student agrees with it."""
    _, known = class_map(teacher.class_names, data, teacher.num_classes, teacher.name)
    if sorted(known) != sorted(names):
        raise InputError(f"--teacher {teacher.name} is of other classes than the network that is measured.")
    column = {name: i for i, name in enumerate(known)}
    theirs = teacher.logits(None)[:, [column[name] for name in names]]
    return {
        **teacher.about,
        "metrics": metrics(theirs),
        "calibration": measures.calibration(theirs, labels),
        "per_class": measures.per_class(theirs, labels, names),
        **measures.agreement(logits, theirs),
    }
