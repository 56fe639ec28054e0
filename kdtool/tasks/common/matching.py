"""Which samples of a data set are measured, and which of a network's logits stands for which of its classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdtool.errors import InputError

SPLITS = ("test", "val", "train", "all")


def choose(data: Any, name: str, unit: str) -> dict[str, Any]:
    """Return the splits that ``--split`` names; without the samples that have no label.

    Args:
        data: the data set.
        name: one of ``SPLITS``.
        unit: what the samples are called.

    Raises:
        InputError: another name, a split that the data does not have, or no label in it.
    """
    if name not in SPLITS:
        raise InputError(f"--split {name} is none. Valid: {', '.join(SPLITS)}.")
    if data.stream is not None and name in ("train", "all"):
        raise streamed(name)
    every = {"train": data.train, "val": data.val, "test": data.test}
    wanted = {key: split for key, split in every.items() if split is not None and name in (key, "all")}
    if data.val is data.test and name == "all":
        del wanted["val"]
    if not wanted:
        raise InputError(f"--split {name}: {data.name} has none, since data.val_fraction is 0.")
    labelled = {key: split.take(np.flatnonzero(split.labels >= 0)) for key, split in wanted.items()}
    if not sum(map(len, labelled.values())):
        raise InputError(f"--split {name}: its {unit} have no labels, so nothing can be measured on them.")
    return {key: split for key, split in labelled.items() if len(split)}


def streamed(name: str) -> InputError:
    """Return the error for a split that passes by."""
    return InputError(f"--split {name}: the training set is streamed; measure on test or val.")


def usual_split(data: Any, seen: bool) -> tuple[str, list[str]]:
    """Return what ``--split`` is where nobody says so, and what is to be said of it.

    It is "all" of data that have no split to test on, else "test".

    Args:
        data: the data set, which knows whether it has an ``own_test`` split.
        seen: the network was trained on it, so that only what was held out is new to it.
    """
    if seen or data.own_test:
        return "test", []
    return "all", [
        f"{data.name} has no test split, so all of it is measured; --split test is what a run on it would hold out"
    ]


def evenly(split: Any, most: int) -> Any:
    """Return at most so many of a split's samples, evenly spaced."""
    return split.take(np.unique(np.linspace(0, len(split) - 1, min(most, len(split))).round().astype(int)))


def class_map(model: Sequence[str] | None, data: Any, classes: int, name: str) -> tuple[Tensor, list[str]]:
    """Return (number in the logits by class of the data, names of the logits): classes are matched by name.

    Args:
        model: the network's class names; None: unknown, so that they must be as many as the data's.
        data: whose labels are to be mapped.
        classes: how many logits the network gives.
        name: of the network, for messages.

    Raises:
        InputError: the network lacks a class of the data.
    """
    if model is None:
        if classes != len(data.class_names):
            raise InputError(
                f"{name} has {classes} classes without names, the data {data.name} has {len(data.class_names)}: there "
                "is no telling which is which. Give data with those classes, or weights made for these."
            )
        return torch.arange(classes), list(data.class_names)
    number = {each: i for i, each in enumerate(model)}
    missing = [each for each in data.class_names if each not in number]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise InputError(
            f"{name} does not know the class {', '.join(map(repr, missing[:3]))}{more} of {data.name}; it knows "
            f"{', '.join(map(repr, model[:8]))}{', …' if len(model) > 8 else ''}. Rename the data's classes, or leave "
            "those out."
        )
    return torch.tensor([number[each] for each in data.class_names]), list(model)
