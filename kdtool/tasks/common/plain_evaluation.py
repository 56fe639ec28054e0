"""What ``kdtool eval`` says where a sample has not one class: several, or none that was learnt from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kdtool.engine.job import Objective
from kdtool.errors import InputError
from kdtool.tasks.common.evaluation import Corruption, Measured, bias_vector
from kdtool.tasks.common.matching import class_map

PerClass = Callable[[Tensor], list[dict[str, Any]]]
"""Returns a line for each class of (N, K) logits in the order of the data's classes."""


def evaluate(
    student: Measured,
    teachers: Sequence[Measured],
    objective: Objective,
    data: Any,
    labels: Tensor,
    about_data: Mapping[str, Any],
    per_class: PerClass | None = None,
    *,
    corruptions: Sequence[Corruption] = (),
    bias: Mapping[str, float] | None = None,
) -> tuple[dict[str, Any], Tensor]:
    """Return what is found of a student, and of teachers beside it, as plain data; and the student's (N, K) outputs.

    Args:
        student, teachers: the networks.
        objective: whose metrics they are measured by.
        data: the data set, for its class names.
        labels: (N,) int64, as the objective takes them.
        about_data: as for ``kdtool.tasks.common.evaluation.evaluate``.
        per_class: what is told of each class; None: nothing.
        corruptions: each measured as well.
        bias: what to add to a class's logit, by the class's name or number: its threshold, moved.

    Raises:
        InputError: the networks' classes are not those of the data, or a bias is of none.
    """
    metric, names = objective.metric, list(data.class_names)
    shift = bias_vector(bias or {}, names) if objective.num_classes else torch.zeros(())

    def outputs(network: Measured, corruption: Corruption | None = None) -> Tensor:
        if bool(network.num_classes) != bool(objective.num_classes):
            gives = "classes" if network.num_classes else "embeddings"
            raise InputError(f"{network.name} gives {gives}, which the network beside it does not.")
        found = network.logits(corruption)
        if objective.num_classes:
            number, _ = class_map(network.class_names, data, network.num_classes, network.name)
            found = found[:, number]
        return found

    def metrics(found: Tensor) -> dict[str, Any]:
        meter = objective.meter()
        meter.add(found, labels, torch.arange(len(labels)))
        return meter.metrics()

    def measured(found: Tensor) -> dict[str, Any]:
        return {"metrics": metrics(found), **({"per_class": per_class(found)} if per_class is not None else {})}

    given = outputs(student) + shift
    document: dict[str, Any] = {
        "target": dict(student.about),
        "data": dict(about_data),
        "metric": metric.to_dict(),
        **measured(given),
        "teachers": [{**each.about, **measured(outputs(each))} for each in teachers],
        "robustness": [],
        "bias": {name: value for name, value in zip(names, shift.tolist(), strict=True) if value} if bias else {},
        "predictions": None,
        "notes": [],
    }
    for corruption in corruptions:
        worse = metrics(outputs(student, corruption) + shift)
        drop = round(metric.gain(document["metrics"][metric.key], worse[metric.key]), 4)
        document["robustness"].append(
            {"corruption": corruption.kind, "severity": corruption.severity, **worse, "drop_points": drop}
        )
    return document, given


def refuse(asked: Mapping[str, Any], why: str) -> None:
    """Refuse flags that go by classes.

    Raises:
        InputError: one was given.
    """
    for flag, given in asked.items():
        if given:
            raise InputError(f"{flag} goes by classes, and {why}. Leave it out.")
