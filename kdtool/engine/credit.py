"""What each class that a student drew is worth, found by looking at whole samples before a loss sees their rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtool.engine.dry import undisturbed
from kdtool.engine.job import Loaded
from kdtool.engine.precision import Precision
from kdtool.engine.rows import chunks, whole
from kdtool.engine.step import run_network
from kdtool.engine.tree import cast
from kdtool.errors import InputError
from kdtool.losses import ensemble_logits
from kdtool.method import Drawn, Out


def credit_of(
    credit: Callable[[Drawn], Mapping[str, Tensor]],
    student: nn.Module,
    teachers: Sequence[Out],
    loaded: Loaded,
    precision: Precision,
    mix: float,
    temperature: float,
) -> dict[str, Tensor]:
    """Return by name what a stage's ``credit`` says of each of the (R,) rows of a batch that the student wrote.

    Log-probabilities are those of a forward of whole samples, as the loss will see them, some rows at a time.

    Args:
        credit: ``kdtool.method.Stage.credit``.
        student: the tapped network; it computes in evaluation mode, as when it wrote.
        teachers: their outputs on the batch.
        loaded: this process's part of the batch.
        precision: of the student's forward.
        mix: share of the first teacher in what was drawn from.
        temperature: of that.

    Raises:
        InputError: it returns anything but one value a row.
    """
    with undisturbed(student):
        own = run_network(student, cast(loaded.inputs, precision.dtype), precision, late=True)
        classes_R = loaded.drawn["class"]
        sizes = chunks(own.logits)
        parts = [out.logits.split(sizes) for out in (own, *teachers)]
        found: list[list[Tensor]] = []
        for wanted_C, *logits in zip(classes_R.split(sizes), *parts, strict=True):
            student_CK = whole(logits[0])
            teachers_CK = [whole(each, student_CK) for each in logits[1:]]
            mixed_CK = student_CK
            if mix:
                mixed_CK = ensemble_logits([student_CK, teachers_CK[0]], [1 - mix, mix], temperature=temperature)
            every = [mixed_CK / temperature, student_CK, *teachers_CK]
            found.append([_of(each, wanted_C) for each in every])
        drawn, ours, *theirs = (torch.cat(each) for each in zip(*found, strict=True))
        lengths = [1] * len(classes_R) if loaded.rows is None else loaded.rows
        values = dict(credit(Drawn(classes_R, lengths, ours, theirs, drawn)))
    odd = [name for name, each in values.items() if each.shape != classes_R.shape]
    if odd:
        raise InputError(
            f"a stage's credit has one value a row, ({len(classes_R)},); that of {', '.join(odd)} has not."
        )
    return values


def _of(logits_CK: Tensor, classes_C: Tensor) -> Tensor:
    """Return the (C,) log-probabilities of classes, 0 of a class of -1."""
    log_p_C = -F.cross_entropy(logits_CK, classes_C.clamp(min=0), reduction="none")
    return log_p_C.masked_fill(classes_C < 0, 0.0)
