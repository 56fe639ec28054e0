"""What ``kdtool eval`` says where a sample has not one class: several, or none that was learnt from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kdtool.engine.job import Objective
from kdtool.errors import InputError
from kdtool.tasks.common.evaluation import Measured
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
) -> dict[str, Any]:
    """Return what is found of a student, and of teachers beside it, as plain data.

    Args:
        student, teachers: the networks.
        objective: whose metrics they are measured by.
        data: the data set, for its class names.
        labels: (N,) int64, as the objective takes them.
        about_data: as for ``kdtool.tasks.common.evaluation.evaluate``.
        per_class: what is told of each class; None: nothing.

    Raises:
        InputError: the networks' classes are not those of the data.
    """

    def measured(network: Measured) -> dict[str, Any]:
        if bool(network.num_classes) != bool(objective.num_classes):
            gives = "classes" if network.num_classes else "embeddings"
            raise InputError(f"{network.name} gives {gives}, which the network beside it does not.")
        logits = network.logits(None)
        if objective.num_classes:
            number, _ = class_map(network.class_names, data, network.num_classes, network.name)
            logits = logits[:, number]
        meter = objective.meter()
        meter.add(logits, labels, torch.arange(len(labels)))
        return {"metrics": meter.metrics(), **({"per_class": per_class(logits)} if per_class is not None else {})}

    return {
        "target": dict(student.about),
        "data": dict(about_data),
        "metric": objective.metric.to_dict(),
        **measured(student),
        "teachers": [{**each.about, **measured(each)} for each in teachers],
        "robustness": [],
        "bias": {},
        "predictions": None,
        "notes": [],
    }


def refuse(asked: Mapping[str, Any], why: str) -> None:
    """Refuse flags that go by one class a sample.

    Raises:
        InputError: one was given.
    """
    for flag, given in asked.items():
        if given:
            raise InputError(f"{flag} goes by one class an image, and {why}. Leave it out.")
