"""What a teacher's outputs follow from, as plain data: where two are equal, so are the outputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from kdtool.recipe.schema import Cache, Data
    from kdtool.tasks.images.data.sources import DataSet, Split
    from kdtool.tasks.images.data.views import Views
    from kdtool.tasks.images.models.build import Built

FORMAT = 1
"""Raised when kdtool's views, folding or storage come to give other numbers."""


def identity(
    built: Built,
    precision: str,
    device: torch.device,
    data: DataSet,
    split: Split,
    cfg: Data,
    views: Views,
    cache: Cache,
    tf32: bool,
) -> dict[str, Any]:
    """Return what decides a teacher's outputs, in sections of plain values.

    Args:
        built: the teacher, with the weights it teaches with.
        precision: of its forward.
        device: where it runs; kernels of another kind of device round otherwise.
        data: what the split is of.
        split: the student's training set.
        cfg: the recipe's section ``data``.
        views: how images become the student's inputs.
        cache: how outputs are stored.
        tf32: whether CUDA may multiply in TF32.
    """
    import PIL
    import timm
    import torch

    from kdtool.tasks.images.models.weights import digest

    found: dict[str, Any] = {
        "format": FORMAT,
        "teacher": {
            "architecture": built.timm_name or built.name,
            "model_args": built.model_args,
            "source": built.source_hash,
            "weights": digest(built.module.state_dict()),
            "classes": built.num_classes,
            "image_size": built.image_size,
            "mean": built.mean,
            "std": built.std,
            "precision": "tf32" if precision == "fp32" and tf32 and device.type == "cuda" else precision,
            "folded": True,
            "device": device.type,
        },
        "data": {
            "fingerprint": data.fingerprint,
            "labels_per_class": cfg.labels_per_class,
            "exclude_classes": list(cfg.exclude_classes),
            "unlabelled": split.extra_fingerprint,
            "samples": len(split),
            "rows": hashlib.sha256(split.rows.tobytes()).hexdigest(),
        },
        "views": views.decides,
        "storage": {"dtype": cache.dtype, "top_k": cache.top_k},
        "versions": {"torch": torch.__version__, "timm": timm.__version__, "pillow": PIL.__version__},
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
