"""What two networks make of the same few hundred test images: soft labels, and embeddings in the plane."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kdtool.errors import InputError
from kdtool.recipe import load as recipes
from kdtool.tasks.common.hooked import EMBEDDING
from kdtool.tasks.images.data.dataset import Split
from kdtool.tasks.images.evaluation.predictions import Examined, choose, class_map
from kdtool.tasks.images.evaluation.target import Target, find, open_target
from kdtool.tasks.images.evaluation.teachers import own_teachers
from kdtool.tasks.images.networks import Adapted
from kdtool.tasks.images.options import Recipe

TEST_IMAGES = 300
"""Test images, evenly spaced, that are drawn in the plane and chosen from."""

SHOWN = 8
TOP = 4
THUMB = 96
MANY_CLASSES = 10
"""Classes that are told apart by colour; of more, the most frequent ones are drawn."""


def look(recipe: Recipe, run: str) -> dict[str, Any]:
    """Return what a run's student and its first teacher make of test images.

    Args:
        recipe: the run's, of its last link.
        run: its folder.

    Returns:
        "images": the number looked at; "temperature": the method's, None where it has none; "soft_labels": for each
        chosen image "png" (base64), "label" and by network and temperature the top classes with their probabilities;
        "embeddings": by network {"x", "y", "label", "predicted"}; "notes".
    """
    examined, student = _opened(recipe, run)
    networks = {"student": student}
    teachers, notes = own_teachers(recipe, examined.data, student.preprocessing) if recipe.teacher else ([], [])
    if teachers:
        networks["teacher"] = teachers[0]
    number, names = class_map(student.class_names, examined.data, student.num_classes, student.name)
    labels = number[examined.labels]
    logits, embeddings = {}, {}
    for part, network in networks.items():
        logits[part], vectors = _outputs(network, examined, student, notes)
        if part == "teacher":  # its classes lie in the data's order
            order = class_map(network.class_names, examined.data, network.num_classes, network.name)[1]
            logits[part] = logits[part][:, [order.index(name) for name in names]]
        if vectors is not None:
            embeddings[part] = vectors
    temperature = method_temperature(recipe)
    return {
        "images": len(labels),
        "temperature": temperature,
        "soft_labels": _soft_labels(examined, labels, logits, names, temperature),
        "embeddings": {
            part: _plane(vectors, labels, logits[part].argmax(1), names) for part, vectors in embeddings.items()
        },
        "notes": notes,
    }


def method_temperature(recipe: Recipe) -> float | None:
    """Return the first option called temperature among the run's methods' own, None where there is none."""
    for name in recipes.parts(recipe):
        found = getattr(recipe.options.get(name), "temperature", None)
        if isinstance(found, (int, float)) and found > 0:
            return float(found)
    return None


def _opened(recipe: Recipe, run: str) -> tuple[Examined, Target]:
    from kdtool.engine.precision import pick_device
    from kdtool.tasks.images.data.open import open_data

    data = open_data(recipe.data, stream=recipe.train.steps is not None)
    student = open_target(find(run), data)
    (split,) = choose(data, "test").values()
    rows = np.unique(np.linspace(0, len(split) - 1, min(TEST_IMAGES, len(split))).round().astype(int))
    device = pick_device(recipe.train.device)
    return Examined(data, recipe.data, {"test": split.take(rows)}, recipe.train.batch_size, device), student


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


# --- soft labels ------------------------------------------------------------------------------------------------------


def _soft_labels(
    examined: Examined, labels: Tensor, logits: dict[str, Tensor], names: Sequence[str], temperature: float | None
) -> list[dict[str, Any]]:
    (split,) = examined.splits.values()
    chosen = _chosen(logits.get("teacher", logits["student"]))
    return [
        {
            "png": _thumbnail(split, i),
            "label": names[int(labels[i])],
            "networks": [
                {"part": part, "temperature": t, "top": _top(logits[part][i], t, names)}
                for part in ("teacher", "student")
                if part in logits
                for t in dict.fromkeys([1.0, temperature or 1.0])
            ],
        }
        for i in chosen
    ]


def _chosen(logits: Tensor) -> list[int]:
    """Return the images whose soft labels say most, half of them the least certain, half spread over the others."""
    log_p = logits.double().log_softmax(1)
    order = (-(log_p.exp() * log_p).sum(1)).argsort(descending=True, stable=True).tolist()
    half = SHOWN // 2
    rest = order[half:]
    spread = [rest[round(i)] for i in np.linspace(0, len(rest) - 1, half)] if rest else []
    return list(dict.fromkeys([*order[:half], *spread]))


def _top(logits: Tensor, temperature: float, names: Sequence[str]) -> list[dict[str, Any]]:
    probability, number = (logits.double() / temperature).softmax(0).topk(min(TOP, len(names)))
    return [{"class": names[k], "p": p} for p, k in zip(probability.tolist(), number.tolist(), strict=True)]


def _thumbnail(split: Split, position: int) -> str:
    image = split.images[int(split.rows[position])].convert("RGB")
    image.thumbnail((THUMB, THUMB), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


# --- the plane --------------------------------------------------------------------------------------------------------


def _plane(vectors: Tensor, labels: Tensor, predicted: Tensor, names: Sequence[str]) -> dict[str, Any] | None:
    """Return t-SNE coordinates (van der Maaten & Hinton, JMLR 2008); None where there are too few images."""
    most = torch.bincount(labels, minlength=len(names)).argsort(descending=True, stable=True)[:MANY_CLASSES]
    kept = torch.isin(labels, most)
    vectors, labels, predicted = vectors[kept], labels[kept], predicted[kept]
    if len(vectors) < 10:
        return None
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(vectors) - 1) / 3)
    standard = (vectors - vectors.mean(0)) / vectors.std().clamp_min(1e-12)
    plane = TSNE(2, init="pca", perplexity=perplexity, random_state=0).fit_transform(standard.double().numpy())
    return {
        "x": plane[:, 0].round(2).tolist(),
        "y": plane[:, 1].round(2).tolist(),
        "label": [names[i] for i in labels.tolist()],
        "predicted": [names[i] for i in predicted.tolist()],
    }
