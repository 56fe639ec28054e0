"""What a teacher's outputs follow from, as plain data: where two are equal, so are the outputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from kdtool.recipe.decides import keys_deciding
from kdtool.recipe.options import OUTPUTS

if TYPE_CHECKING:
    import torch

    from kdtool.recipe.schema import Recipe
    from kdtool.tasks.task import Built, Task

FORMAT = 2
"""Raised when kdtool's views, folding or storage come to give other numbers, or an identity comes to hold more."""


def identity(
    task: Task, recipe: Recipe, built: Built, precision: str, device: torch.device, data: Any, split: Any, views: Any
) -> dict[str, Any]:
    """Return what decides a teacher's outputs, in sections of plain values.

    Which of the recipe's keys do is declared beside each of them; they stand here under their own names.

    Args:
        task: the recipe's.
        recipe: the run's.
        built: the teacher, with the weights it teaches with.
        precision: of its forward.
        device: where it runs; kernels of another kind of device round otherwise.
        data: what the split is of.
        split: the student's training set.
        views: by a key's name what it comes to, where that says more than what the recipe has (a crop that is "auto").
    """
    import torch

    from kdtool.engine.quantised import PACKAGE, need_package
    from kdtool.tasks.common.weights import digest

    train = keys_deciding(recipe.train, OUTPUTS)
    tf32 = train.pop("tf32") and precision == "fp32" and device.type == "cuda"
    del train["precision"]  # the teacher's own stands in its section
    keys = {key: value for key, value in keys_deciding(recipe.data, OUTPUTS).items() if key not in views}
    versions = {"torch": torch.__version__, **task.versions(OUTPUTS)}
    if precision == "int8":
        versions[PACKAGE] = need_package()
    found: dict[str, Any] = {
        "format": FORMAT,
        "task": task.name,
        "teacher": {
            **built.identity(),
            "weights": digest(built.module.state_dict()),
            "precision": "tf32" if tf32 else precision,
            "folded": True,
            "device": device.type,
            **train,
        },
        "data": {
            "fingerprint": data.fingerprint,
            "unlabelled": getattr(split, "extra_fingerprint", None),
            "samples": len(split),
            "rows": split.digest(),
            **keys,
            **views,
        },
        "cache": keys_deciding(recipe.cache, OUTPUTS),
        "versions": versions,
    }
    plain: dict[str, Any] = json.loads(json.dumps(found))  # as it will come back from a file
    return plain


def key_of(decides: Mapping[str, Any]) -> str:
    """Return the digest of an identity."""
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return, as "teacher.precision is bf16, wanted fp32", each entry in which two identities differ."""
    have, want = dict(_entries(found)), dict(_entries(wanted))
    return [
        f"{name} is {_shown(have.get(name))}, wanted {_shown(want.get(name))}"
        for name in dict.fromkeys([*want, *have])
        if have.get(name) != want.get(name)
    ]


def _entries(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        if isinstance(value, Mapping) and name != "model_args":
            yield from _entries(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:12] if len(text) == 64 else text  # a digest
