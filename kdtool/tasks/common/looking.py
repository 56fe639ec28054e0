"""What networks make of the same few hundred test samples: soft labels, and embeddings in the plane."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdtool.recipe import load as recipes
from kdtool.tasks.common.hooked import EMBEDDING
from kdtool.tasks.common.matching import class_map

MOST = 300
"""Test samples, evenly spaced, that are drawn in the plane and chosen from."""

SHOWN = 8
TOP = 4
MANY_CLASSES = 10
"""Classes that are told apart by colour; of more, the most frequent ones are drawn."""


@dataclass(frozen=True)
class Seen:
    """What networks gave for N samples.

    Attributes:
        labels: (N,) int64 in the order of ``names``.
        names: of the K classes.
        logits: (N, K) by part: "student", and "teacher" where there is one.
        embeddings: (N, D) by part; a part that cannot be tapped is left out.
    """

    labels: Tensor
    names: Sequence[str]
    logits: Mapping[str, Tensor]
    embeddings: Mapping[str, Tensor]


@dataclass(frozen=True)
class Shown:
    """A network that is shown the samples.

    Attributes:
        name: for messages.
        class_names: in the order of the logits; None where it does not say.
        num_classes: K.
        outputs: returns (N, K) logits and (N, D) embeddings, None where the network's cannot be tapped.
    """

    name: str
    class_names: Sequence[str] | None
    num_classes: int
    outputs: Callable[[], tuple[Tensor, Tensor | None]]


def see(networks: Mapping[str, Shown], data: Any, labels: Tensor) -> Seen:
    """Return what networks give for samples, their classes in the student's order.

    Args:
        networks: by part: "student", and "teacher" where there is one.
        data: the data set, for its class names.
        labels: (N,) int64 classes of the data.
    """
    student = networks["student"]
    number, names = class_map(student.class_names, data, student.num_classes, student.name)
    logits, embeddings = {}, {}
    for part, network in networks.items():
        found, vectors = network.outputs()
        order = class_map(network.class_names, data, network.num_classes, network.name)[1]
        logits[part] = found if part == "student" else found[:, [order.index(name) for name in names]]
        if vectors is not None:
            embeddings[part] = vectors
    return Seen(number[labels], names, logits, embeddings)


@torch.no_grad()
def outputs_of(network: Any, batches: Iterable[Any], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Return (N, K) logits, and (N, D) embeddings where the network taps them; in fp32, on the CPU.

    Args:
        network: tapped.
        batches: of inputs, on the device.
        device: where it runs.
    """
    network.eval().to(device, torch.float32)
    found = [network(batch.inputs)[:2] for batch in batches]
    logits = torch.cat([logits.cpu() for logits, _ in found])
    return logits, torch.cat([taps[EMBEDDING].cpu() for _, taps in found]) if EMBEDDING in found[0][1] else None


def looked(
    seen: Seen, temperature: float | None, show: Callable[[int], Mapping[str, str]], notes: Sequence[str]
) -> dict[str, Any]:
    """Return what the page shows of single samples.

    Args:
        seen: what networks gave.
        temperature: the method's, None where it has none.
        show: given a sample's position, returns it as "png" (base64) or as "text".
        notes: sentences for the user.

    Returns:
        "count": the number looked at; "temperature"; "soft_labels": for each chosen sample what ``show`` returns,
        "label" and by network and temperature the top classes with their probabilities; "embeddings": by network
        {"x", "y", "label", "predicted"}; "notes".
    """
    return {
        "count": len(seen.labels),
        "temperature": temperature,
        "soft_labels": [
            {**show(i), "label": seen.names[int(seen.labels[i])], "networks": _opinions(seen, i, temperature)}
            for i in _chosen(seen.logits.get("teacher", seen.logits["student"]))
        ],
        "embeddings": {
            part: plane(vectors, seen.labels, seen.logits[part].argmax(1), seen.names)
            for part, vectors in seen.embeddings.items()
        },
        "notes": list(notes),
    }


def method_temperature(recipe: Any) -> float | None:
    """Return the first option called temperature among the run's methods' own, None where there is none."""
    for name in recipes.parts(recipe):
        found = getattr(recipe.options.get(name), "temperature", None)
        if isinstance(found, (int, float)) and found > 0:
            return float(found)
    return None


def _opinions(seen: Seen, i: int, temperature: float | None) -> list[dict[str, Any]]:
    return [
        {"part": part, "temperature": t, "top": _top(seen.logits[part][i], t, seen.names)}
        for part in ("teacher", "student")
        if part in seen.logits
        for t in dict.fromkeys([1.0, temperature or 1.0])
    ]


def _chosen(logits: Tensor) -> list[int]:
    """Return the samples whose soft labels say most, half of them the least certain, half spread over the others."""
    log_p = logits.double().log_softmax(1)
    order = (-(log_p.exp() * log_p).sum(1)).argsort(descending=True, stable=True).tolist()
    half = SHOWN // 2
    rest = order[half:]
    spread = [rest[round(i)] for i in np.linspace(0, len(rest) - 1, half)] if rest else []
    return list(dict.fromkeys([*order[:half], *spread]))


def _top(logits: Tensor, temperature: float, names: Sequence[str]) -> list[dict[str, Any]]:
    probability, number = (logits.double() / temperature).softmax(0).topk(min(TOP, len(names)))
    return [{"class": names[k], "p": p} for p, k in zip(probability.tolist(), number.tolist(), strict=True)]


def plane(vectors: Tensor, labels: Tensor, predicted: Tensor, names: Sequence[str]) -> dict[str, Any] | None:
    """Return t-SNE coordinates (van der Maaten & Hinton, JMLR 2008); None where there are too few samples."""
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
