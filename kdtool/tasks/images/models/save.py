"""The folder that ships: weights and a configuration that plain timm opens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from kdtool.tasks.common.own_classes import TARGETS
from kdtool.tasks.common.replaced import KEY, open_with
from kdtool.tasks.common.weights import WEIGHTS, write_weights
from kdtool.tasks.images.models.built import Built

CONFIG = "config.json"

KEPT = ("first_conv", "classifier", "fixed_input_size", "pool_size", "license")
"""What a saved model keeps of its source's configuration; the rest is its own or names where the source came from."""


def save_student(
    folder: str | Path,
    built: Built,
    state: Mapping[str, Tensor],
    class_names: Sequence[str],
    crop_pct: float = 1.0,
    interpolation: str = "bicubic",
    targets: str = "single",
) -> Path:
    """Write ``model.safetensors`` and ``config.json``, and return the weights' path.

    ``timm.create_model("local-dir:<folder>", pretrained=True)`` then gives the same logits, bit for bit. Equal
    inputs give equal bytes. Each file is written aside and renamed, so a killed process leaves no half file.

    Args:
        folder: made where it does not exist; other files in it stay.
        built: the network; its mean and std are those that the weights were trained with.
        state: the weights to ship, named as in ``built.module``.
        class_names: K names, in the order of the logits.
        crop_pct: share of the resized image that evaluation's centre crop keeps, in (0, 1].
        interpolation: how evaluation resizes.
        targets: whether an image has one class or several, as ``data.targets``.

    Raises:
        RunError: they cannot be written.
    """
    config = describe(built, class_names, crop_pct, interpolation) | ({} if targets == "single" else {TARGETS: targets})
    return write_weights(Path(folder), state, {CONFIG: json.dumps(config, indent=2, sort_keys=True) + "\n"})


def describe(built: Built, class_names: Sequence[str], crop_pct: float, interpolation: str) -> dict[str, Any]:
    """Return what ``config.json`` holds: timm's keys, and for a user's own architecture where its code is."""
    source = getattr(built.module, "pretrained_cfg", None) or {}
    cfg: dict[str, Any] = {key: source[key] for key in KEPT if source.get(key) is not None}
    if built.channels != 3:
        cfg.pop("first_conv", None)  # some versions of timm would adapt its weights from RGB, and drop them
    if tuple(source.get("input_size", ())[1:]) != (built.image_size, built.image_size):
        cfg.pop("pool_size", None)
    if built.model_args.get("img_size", built.image_size) not in (built.image_size, [built.image_size] * 2):
        cfg["fixed_input_size"] = False  # it rescales images itself; timm would take img_size for the images' own
    cfg |= {
        "input_size": [built.channels, built.image_size, built.image_size],
        "mean": list(built.mean),
        "std": list(built.std),
        "interpolation": interpolation,
        "crop_pct": crop_pct,
        "crop_mode": "center",
        "num_classes": built.num_classes,
    }
    config = {
        "num_classes": built.num_classes,
        "label_names": list(class_names),
        "model_args": built.model_args,
        "pretrained_cfg": cfg,
    }
    width = getattr(built.module, "num_features", None)
    if isinstance(width, int):
        config["num_features"] = width
    if built.replaced:
        config[KEY] = built.replaced
    if built.timm_name is not None:
        return {"architecture": built.timm_name, **config}
    return {"kdtool": {"source": built.source, "sha256": built.source_hash}, **config}


def how_to_open(built: Built, folder: str | Path) -> str:
    """Return the line of Python that opens a saved model."""
    weights = Path(folder) / WEIGHTS
    if built.replaced:
        return _with_replaced(built, weights)
    if built.timm_name is None:
        path, _, function = str(built.source).rpartition(":")
        arguments = "".join(f", {name}={value!r}" for name, value in built.model_args.items())
        return (
            f"{function}(num_classes={built.num_classes}{arguments})  # of {path}; then load_state_dict("
            f"safetensors.torch.load_file({str(weights)!r}))"
        )
    first = f"import {built.import_first}; " if built.import_first else ""
    return f'{first}timm.create_model("local-dir:{folder}", pretrained=True)'


def _with_replaced(built: Built, weights: Path) -> str:
    arguments = "".join(f", {name}={value!r}" for name, value in built.model_args.items())
    if built.timm_name is None:
        path, _, function = str(built.source).rpartition(":")
        line = open_with(f"{function}(num_classes={built.num_classes}{arguments})", built.replaced, weights)
        return f"{line}  # {function} of {path}"
    first = f"import {built.import_first}; " if built.import_first else ""
    made = f"timm.create_model({built.timm_name!r}, num_classes={built.num_classes}{arguments})"
    return first + open_with(made, built.replaced, weights)
