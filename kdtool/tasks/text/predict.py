"""``kdtool.predict`` for texts: classes of new sentences, as they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdtool.engine import tree
from kdtool.engine.precision import pick_device
from kdtool.errors import InputError
from kdtool.recipe import load as recipes
from kdtool.tasks.common.held import HeldSplit
from kdtool.tasks.common.predicting import BATCH, check, predicted
from kdtool.tasks.common.targets import find
from kdtool.tasks.prediction import Prediction
from kdtool.tasks.task import Say
from kdtool.tasks.text.data.batches import Maker
from kdtool.tasks.text.data.inputs import chunks_of_file, chunks_of_samples
from kdtool.tasks.text.evaluation.evaluate import UNIT, refuse_others
from kdtool.tasks.text.evaluation.target import open_target
from kdtool.tasks.text.models.tokens import Text


def predict(
    target: str,
    inputs: Sequence[str] = (),
    *,
    samples: Iterable[Any] | None = None,
    weights: str = "auto",
    top: int = 1,
    batch_size: int | None = None,
    device: str = "auto",
    overrides: Sequence[str] = (),
    say: Say | None = None,
    **others: Any,
) -> Iterator[Prediction]:
    """Return what a network makes of sentences.

    Args:
        target: a run's folder, a saved model's folder, or a model's name with ``weights``.
        inputs: files of lines or tables, or "-" for lines on standard input.
        samples: sentences, or pairs of them, instead.
        weights: of a model by name.
        top: how many classes of each.
        batch_size: sentences at once.
        device: where the network runs.
        overrides: ``data.text=[COLUMN]`` names a table's column, or a pair's two.
        say: takes sentences for the user.
        others: what other tasks take: refused by name.

    Raises:
        InputError: something that was given is wrong.
    """
    refuse_others(others)
    columns = _columns(overrides)
    found = find(target)
    opened = open_target(found, None, None, weights)
    for note in opened.notes if say is not None else ():
        say(note)  # type: ignore[misc]
    built, place, most = opened.built, pick_device(device), batch_size or BATCH
    names = opened.class_names or [str(number) for number in range(built.num_classes)]
    check(top, batch_size, names, samples, inputs)
    network = built.tapped().eval().to(place, torch.float32)

    @torch.no_grad()
    def logits(texts: list[Text]) -> Tensor:
        split = HeldSplit(texts, np.full(len(texts), -1), np.arange(len(texts)))
        made = Maker(split, {built.tokens.digest: built.tokens}, None)(torch.arange(len(texts)), 0)
        outputs: Tensor = network(tree.to(made, place))[0]
        return outputs

    if samples is not None:
        chunks = chunks_of_samples(samples, most, opened.pairs)
    else:
        usual = list(found.recipe.data.text) if found.recipe is not None else []
        # Every file is looked at before the first is read.
        chunks = chain.from_iterable([chunks_of_file(file, columns, usual, most, opened.pairs) for file in inputs])
    return predicted(chunks, logits, names, top, UNIT)


def _columns(overrides: Sequence[str]) -> list[str]:
    """Return the columns that ``data.text`` names."""
    for text in overrides:
        if recipes.split_override(text)[0] != "data.text":
            raise InputError(f"{text}: of the recipe's keys only data.text applies here.")
    flags = {"task": "text", "method": "none"}
    recipe: Any = recipes.load(None, overrides, flags)
    if len(recipe.data.text) > 2:
        raise InputError(f"data.text={recipe.data.text}: name one column of texts, or the two of a pair.")
    return list(recipe.data.text)
