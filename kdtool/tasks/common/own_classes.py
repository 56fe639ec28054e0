"""What a saved network says of its classes, held against the data's before it teaches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdtool.errors import InputError
from kdtool.tasks.common.targets import config_of, network_folder
from kdtool.tasks.task import Built

TARGETS = "targets"
"""The key of ``config.json`` that tells that a sample has several classes: "multi"; without it one."""


def check_teachers(
    teachers: Sequence[Built], sections: Sequence[Any], class_names: Sequence[str], targets: str = "single"
) -> None:
    """Refuse teachers whose logits stand for other classes than the data's; note where the names alone differ.

    Those that are to be trained, and those that do not say their classes, pass.

    Args:
        teachers: built.
        sections: of the recipe, one a teacher.
        class_names: of the data, in the order of the labels.
        targets: "single" or "multi": whether a sample of the data has one class or several.

    Raises:
        InputError: one has the data's classes in another order, or tells one class where samples have several.
    """
    for number, (built, section) in enumerate(zip(teachers, sections, strict=True)):
        own = names_of(config := _saved(section))
        if own is None or built.needs_training or not built.num_classes:
            continue
        key = "teacher" if len(sections) == 1 else f"teacher.{number}"
        instead = f"{key}.new_head=true keeps its body and trains a new head on the data."
        if config.get(TARGETS, "single") != targets:
            tells, have = ("several classes", "one") if targets == "single" else ("one class", "several")
            raise InputError(f"the teacher {built.name} tells {tells} of a sample, and the data have {have}: {instead}")
        if own == list(class_names):
            continue
        both = f"{_few(own)}, those of the data {_few(class_names)}"
        if sorted(own) == sorted(class_names):
            raise InputError(
                f"the classes of the teacher {built.name} are {both}: the same in another order, so that its logits "
                f"would be taken for those of other classes. Bring the data's into that order; or {instead}"
            )
        built.notes.append(f"the classes of {built.name} are called {both}: taken to be the same, in this order")


def names_of(config: Mapping[str, Any]) -> list[str] | None:
    """Return the class names in the order of the logits; None where a configuration does not say them."""
    if config.get("label_names"):
        return [str(name) for name in config["label_names"]]
    by_number = config.get("id2label")
    if not isinstance(by_number, Mapping) or not by_number:
        return None
    try:
        names = [str(name) for _, name in sorted(by_number.items(), key=lambda each: int(each[0]))]
    except ValueError:
        return None
    # What transformers calls the classes of a model that was given no names.
    return None if names == [f"LABEL_{i}" for i in range(len(names))] else names


def _saved(section: Any) -> dict[str, Any]:
    """Return the description beside the weights that a network's section names, empty where there is none."""
    if section.weights not in ("auto", "pretrained", "scratch"):
        return config_of(Path(section.weights).expanduser().parent)
    folder = network_folder(section.model.removeprefix("local-dir:"))
    return config_of(folder) if folder is not None and section.weights != "scratch" else {}


def _few(names: Sequence[str]) -> str:
    return f"{', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
