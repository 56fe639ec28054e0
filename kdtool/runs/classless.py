"""Methods where a softmax over classes has no sense: without classes, and where a sample has several."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from kdtool import registry
from kdtool.engine.composition import Combined
from kdtool.engine.dry import undisturbed
from kdtool.engine.precision import Precision
from kdtool.engine.step import run_network, whole_out
from kdtool.errors import InputError
from kdtool.method import Batch, Method


class _NoLogits:
    """Stands where logits would be, and refuses whatever is done with it."""

    def __getattr__(self, name: str) -> Any:
        raise TypeError(f"there are no logits to take {name!r} of")

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise TypeError(f"there are no logits for {getattr(func, '__name__', func)}")


def refuse_logits(name: str, method: Method | None, student: Any, teachers: list[Any], inputs: Any) -> None:
    """Refuse a method that reads logits, found by a dry step on a copy of it.

    Args:
        name: the method's.
        method: None: hard labels only.
        student, teachers: tapped networks that take the same inputs.
        inputs: of two samples or more.

    Raises:
        InputError: it does, or there is none.
    """
    if method is None:
        raise InputError(f"method {name!r} learns from hard labels alone, and there are none to learn from.")
    batch = _unread(student, teachers, inputs)
    why = _reads(method, batch)
    if why is not None:
        raise InputError(
            f"method {name!r} reads logits or labels, and without labels there are no classes ({why}). A method on "
            "embeddings and features, such as one that `kdtool list-methods` calls feature or relation, may do."
        )


def refuse_softmax(
    classes: Mapping[str, type[Method]], method: Method | None, student: Any, teachers: list[Any], inputs: Any
) -> None:
    """Refuse a method that takes one class a sample where samples have several.

    What declares that it takes several does, and so does what reads neither logits nor labels, which a dry step on a
    copy of it tells.

    Args:
        classes: the methods by name.
        method: the run's; None: hard labels only, which are the objective's.
        student, teachers, inputs: as for ``refuse_logits``.

    Raises:
        InputError: there is one.
    """
    if method is None or all("multi" in each.targets for each in classes.values()):
        return
    batch = replace(_unread(student, teachers, inputs), labels=_NoLogits())  # type: ignore[arg-type]
    parts = method.apart(batch) if isinstance(method, Combined) else [(next(iter(classes)), method, batch)]
    for name, part, own in parts:
        cls = classes[name]
        why = "it needs one class a sample" if cls.hard_labels else _reads(part, own)
        if "multi" not in cls.targets and why is not None:
            raise InputError(
                f"method {name!r} takes one class a sample, and here a sample has several: it reads logits, as a "
                f"softmax over the classes, or labels ({why}). A method on features and embeddings runs as it is, and "
                f"so does one on each class's logit: {', '.join(_taking_several())}."
            )


def _taking_several() -> list[str]:
    return [each.name for each in registry.entries() if each.error is None and "multi" in each.load().targets]


def _unread(student: Any, teachers: list[Any], inputs: Any) -> Batch:
    """Return a batch of the networks' taps, whose logits refuse to be read."""
    precision, outs = Precision("fp32", torch.device("cpu")), []
    for network in (student, *teachers):
        with undisturbed(network), torch.no_grad():
            out = whole_out(run_network(network, inputs, precision))
        out.logits = _NoLogits()  # type: ignore[assignment]
        outs.append(out)
    count = len(next(iter(outs[0].taps.values()))) if outs[0].taps else 2
    labels, index = torch.full((count,), -1), torch.arange(count)
    return Batch(labels, index, outs[0], outs[1:], lambda logits: torch.zeros(()))


def _reads(method: Method, batch: Batch) -> str | None:
    """Return what a method does with logits or labels that refuse to be read, None where it reads none."""
    copied: Method = copy.deepcopy(method).cpu().eval()
    for stage in copied.stages():
        for loss in (stage.loss, *stage.turns):
            try:
                with torch.no_grad():
                    loss(batch)
            except TypeError as error:
                return str(error)
    return None
