"""New inputs in batches through a network, as they come; an input that cannot be read stands for itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from kdtool.errors import InputError
from kdtool.tasks.common.multilabel import THRESHOLD
from kdtool.tasks.prediction import Prediction

BATCH = 32
"""Inputs at once, where nothing else is asked for."""


@dataclass(frozen=True)
class Item:
    """An input.

    Attributes:
        file, line: where it is from, as in ``Prediction``.
        shown: it, as people read it.
        content: it, as the network's inputs are made of it.
        problem: why it cannot be read; "" where it can.
    """

    file: str
    line: int | None
    shown: str
    content: Any = None
    problem: str = ""


def in_chunks(items: Iterable[Item], most: int) -> Iterator[list[Item]]:
    """Yield items, so many at once."""
    rest = iter(items)
    while chunk := list(islice(rest, most)):
        yield chunk


@torch.no_grad()
def _guesses(logits: Tensor, names: Sequence[str], top: int) -> list[list[tuple[str, float]]]:
    probability, number = logits.double().cpu().softmax(1).topk(min(top, len(names)), dim=1)
    return [
        [(names[k], p) for p, k in zip(each, numbers, strict=True)]
        for each, numbers in zip(probability.tolist(), number.tolist(), strict=True)
    ]


@torch.no_grad()
def _several(logits: Tensor, names: Sequence[str], top: int) -> list[list[tuple[str, float]]]:
    """Return of each the classes from a half on, the likeliest first; at least ``top`` where that is above 1."""
    probability, number = logits.double().cpu().sigmoid().sort(dim=1, descending=True)
    return [
        [(names[k], p) for at, (p, k) in enumerate(zip(each, numbers, strict=True)) if p >= THRESHOLD or at < top > 1]
        for each, numbers in zip(probability.tolist(), number.tolist(), strict=True)
    ]


def predicted(
    chunks: Iterable[Sequence[Item]],
    logits: Callable[[list[Any]], Tensor],
    names: Sequence[str],
    top: int,
    unit: str,
    several: bool = False,
) -> Iterator[Prediction]:
    """Yield the classes that a network tells of each item, in order.

    Args:
        chunks: items, as many as go through the network at once.
        logits: of the contents of B items, (B, K).
        names: of the K classes.
        top: how many classes of each.
        unit: what the inputs are called.
        several: an input has several classes: those from a half on, and at least ``top`` where that is above 1.

    Raises:
        InputError: at the end, where there was nothing that could be read.
    """
    guess = _several if several else _guesses
    return applied(chunks, lambda some: [{"guesses": each} for each in guess(logits(some), names, top)], unit)


def applied(
    chunks: Iterable[Sequence[Item]], apply: Callable[[list[Any]], Sequence[Mapping[str, Any]]], unit: str
) -> Iterator[Prediction]:
    """Yield what a network makes of each item, in order.

    Args:
        chunks: items, as many as go through the network at once.
        apply: of the contents of B items, for each what ``Prediction`` is to hold of it.
        unit: what the inputs are called.

    Raises:
        InputError: at the end, where there was nothing that could be read.
    """
    good = bad = 0
    for chunk in chunks:
        contents = [item.content for item in chunk if not item.problem]
        found = iter(apply(contents) if contents else ())
        good, bad = good + len(contents), bad + len(chunk) - len(contents)
        for item in chunk:
            said = {} if item.problem else next(found)
            yield Prediction(item.file, item.line, item.shown, problem=item.problem, **said)
    if not good:
        raise InputError(
            f"none of the {bad} {unit} could be read." if bad else f"there are no {unit} in what was given."
        )


def check(top: int, batch_size: int | None, names: Sequence[str], samples: Any, inputs: Sequence[str]) -> None:
    """Refuse numbers and inputs that make no sense.

    Args:
        top: how many classes of each input.
        batch_size: inputs at once; None: ``BATCH``.
        names: of the classes.
        samples: given from Python; None: none.
        inputs: names of files and folders.

    Raises:
        InputError: there is one.
    """
    if not 1 <= top <= len(names):
        raise InputError(f"--top {top}: there are {len(names)} classes, so a number from 1 to {len(names)}.")
    check_given(batch_size, samples, inputs)


def check_given(batch_size: int | None, samples: Any, inputs: Sequence[str]) -> None:
    """Refuse a batch size that is none, and no inputs or both kinds of them; see ``check``.

    Raises:
        InputError: so it is.
    """
    if batch_size is not None and batch_size < 1:
        raise InputError(f"--batch-size {batch_size}: a number from 1 on.")
    if (samples is None) == (not inputs):
        raise InputError("name files to predict, or give samples: one of the two.")
