"""Methods where there are no classes: what a network gives are embeddings, and a loss of logits has none to read."""

from __future__ import annotations

import copy
from typing import Any

import torch

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
    copied: Method = copy.deepcopy(method).cpu().eval()
    precision, outs = Precision("fp32", torch.device("cpu")), []
    for network in (student, *teachers):
        with undisturbed(network), torch.no_grad():
            out = whole_out(run_network(network, inputs, precision))
        out.logits = _NoLogits()  # type: ignore[assignment]
        outs.append(out)
    count = len(next(iter(outs[0].taps.values()))) if outs[0].taps else 2
    labels, index = torch.full((count,), -1), torch.arange(count)
    batch = Batch(labels, index, outs[0], outs[1:], lambda logits: torch.zeros(()))
    for stage in copied.stages():
        for loss in (stage.loss, *stage.turns):
            try:
                with torch.no_grad():
                    loss(batch)
            except TypeError as error:
                raise InputError(
                    f"method {name!r} reads logits or labels, and without labels there are no classes ({error}). A "
                    "method on embeddings and features, such as one that `kdtool list-methods` calls feature or "
                    "relation, may do."
                ) from error
