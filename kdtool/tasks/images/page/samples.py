"""What two networks make of the same few hundred test images: soft labels, and embeddings in the plane."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdtool.errors import InputError
from kdtool.tasks.common.hooked import EMBEDDING
from kdtool.tasks.common.looking import MOST, Shown, looked, method_temperature, outputs_of, see
from kdtool.tasks.common.matching import choose, evenly
from kdtool.tasks.images.evaluation.predictions import Examined
from kdtool.tasks.images.evaluation.target import Target, find, open_target
from kdtool.tasks.images.evaluation.teachers import own_teachers
from kdtool.tasks.images.networks import as_given
from kdtool.tasks.images.options import Recipe
from kdtool.tasks.images.page.thumbnail import picture, png


def look(recipe: Recipe, run: str) -> dict[str, Any]:
    """Return what a run's student and its first teacher make of test images; see ``kdtool.tasks.common.looking``."""
    examined, student = _opened(recipe, run)
    networks = {"student": student}
    teachers, notes = own_teachers(recipe, examined.data, student.preprocessing) if recipe.teacher else ([], [])
    if teachers:
        networks["teacher"] = teachers[0]
    shown = {part: _shown(network, examined, student, notes) for part, network in networks.items()}
    seen = see(shown, examined.data, examined.labels)
    (split,), channels = examined.splits.values(), recipe.data.channels
    return looked(seen, method_temperature(recipe), lambda i: {"png": png(picture(split, i, channels)[0])}, notes)


def _opened(recipe: Recipe, run: str) -> tuple[Examined, Target]:
    from kdtool.engine.precision import pick_device
    from kdtool.tasks.images.data.open import open_data

    data = open_data(recipe.data, stream=recipe.train.steps is not None)
    student = open_target(find(run), data)
    (split,) = choose(data, "test", "images").values()
    device = pick_device(recipe.train.device)
    return Examined(data, recipe.data, {"test": evenly(split, MOST)}, recipe.train.batch_size, device), student


def _shown(network: Target, examined: Examined, student: Target, notes: list[str]) -> Shown:
    def outputs() -> tuple[Tensor, Tensor | None]:
        tapped = network.network
        try:
            tapped = _tapped(network, student)
        except InputError as error:
            notes.append(f"no embedding of {network.name}: {error}")
        batches = (batch for each in examined.batches(student.preprocessing) for batch in each.epoch(0))
        return outputs_of(tapped, batches, examined.device)

    return Shown(network.name, network.class_names, network.num_classes, outputs)


def _tapped(network: Target, student: Target) -> torch.nn.Module:
    assert network.built is not None
    plain = network.built.tapped({EMBEDDING: EMBEDDING})
    if network is student:
        return plain
    how = student.preprocessing
    return as_given(plain, network.built, (how.mean, how.std))
