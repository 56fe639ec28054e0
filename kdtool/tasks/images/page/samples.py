"""What two networks make of the same few hundred test images: soft labels, and embeddings in the plane."""

from __future__ import annotations

import base64
import io
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from kdtool.errors import InputError
from kdtool.tasks.common.hooked import EMBEDDING
from kdtool.tasks.common.looking import MOST, Seen, looked, method_temperature
from kdtool.tasks.common.matching import choose, class_map, evenly
from kdtool.tasks.images.data.dataset import Split
from kdtool.tasks.images.evaluation.predictions import Examined
from kdtool.tasks.images.evaluation.target import Target, find, open_target
from kdtool.tasks.images.evaluation.teachers import own_teachers
from kdtool.tasks.images.networks import Adapted
from kdtool.tasks.images.options import Recipe

THUMB = 96


def look(recipe: Recipe, run: str) -> dict[str, Any]:
    """Return what a run's student and its first teacher make of test images; see ``kdtool.tasks.common.looking``."""
    examined, student = _opened(recipe, run)
    networks = {"student": student}
    teachers, notes = own_teachers(recipe, examined.data, student.preprocessing) if recipe.teacher else ([], [])
    if teachers:
        networks["teacher"] = teachers[0]
    number, names = class_map(student.class_names, examined.data, student.num_classes, student.name)
    logits, embeddings = {}, {}
    for part, network in networks.items():
        logits[part], vectors = _outputs(network, examined, student, notes)
        if part == "teacher":  # its classes lie in the data's order
            order = class_map(network.class_names, examined.data, network.num_classes, network.name)[1]
            logits[part] = logits[part][:, [order.index(name) for name in names]]
        if vectors is not None:
            embeddings[part] = vectors
    (split,) = examined.splits.values()
    seen = Seen(number[examined.labels], names, logits, embeddings)
    return looked(seen, method_temperature(recipe), lambda i: {"png": _thumbnail(split, i)}, notes)


def _opened(recipe: Recipe, run: str) -> tuple[Examined, Target]:
    from kdtool.engine.precision import pick_device
    from kdtool.tasks.images.data.open import open_data

    data = open_data(recipe.data, stream=recipe.train.steps is not None)
    student = open_target(find(run), data)
    (split,) = choose(data, "test", "images").values()
    device = pick_device(recipe.train.device)
    return Examined(data, recipe.data, {"test": evenly(split, MOST)}, recipe.train.batch_size, device), student


@torch.no_grad()
def _outputs(network: Target, examined: Examined, student: Target, notes: list[str]) -> tuple[Tensor, Tensor | None]:
    """Return (N, K) logits and (N, D) embeddings; None where the network's cannot be tapped."""
    how, tapped = student.preprocessing, network.network
    try:
        tapped = _tapped(network, student)
    except InputError as error:
        notes.append(f"no embedding of {network.name}: {error}")
    tapped.eval().to(examined.device, torch.float32)
    pairs = [tapped(batch.inputs) for batches in examined.batches(how) for batch in batches.epoch(0)]
    logits = torch.cat([logits.cpu() for logits, _ in pairs])
    return logits, torch.cat([taps[EMBEDDING].cpu() for _, taps in pairs]) if EMBEDDING in pairs[0][1] else None


def _tapped(network: Target, student: Target) -> torch.nn.Module:
    assert network.built is not None
    plain = network.built.tapped({EMBEDDING: EMBEDDING})
    if network is student:
        return plain
    how, own = student.preprocessing, (tuple(network.built.mean), tuple(network.built.std))
    return Adapted(plain, network.built.image_size, (how.mean, how.std), own)


def _thumbnail(split: Split, position: int) -> str:
    image = split.images[int(split.rows[position])].convert("RGB")
    image.thumbnail((THUMB, THUMB), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()
