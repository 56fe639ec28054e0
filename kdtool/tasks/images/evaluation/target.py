"""What is measured: a run's student, a student folder, a model by name, or an exported file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdtool.errors import InputError
from kdtool.recipe.names import is_own_file
from kdtool.tasks.common.own_classes import TARGETS
from kdtool.tasks.common.targets import Found, config_of, in_folder, recipe_above, refuse_beside
from kdtool.tasks.common.weights import WEIGHTS
from kdtool.tasks.images.data.dataset import DataSet
from kdtool.tasks.images.data.open import default_image_size
from kdtool.tasks.images.evaluation.exported import KINDS, is_there, open_exported
from kdtool.tasks.images.evaluation.preprocessing import Metadata, Preprocessing
from kdtool.tasks.images.models.build import Built, build, own_image_size
from kdtool.tasks.images.models.inputs import of_data, of_section
from kdtool.tasks.images.models.names import SOURCES, resolve
from kdtool.tasks.images.options import Recipe

MODEL_KEYS = ("student.weights_key", "student.mean", "student.std", "student.interpolation", "student.crop_pct")
"""Keys of a recipe that say which weights a model by name has, and what its input is to be."""


@dataclass
class Target:
    """A network that is ready to be measured.

    Attributes:
        name: as it was given.
        kind: as in ``Found``.
        network: (B, C, S, S) normalised images -> ((B, K) logits, taps).
        preprocessing: of its input.
        class_names: in the order of the logits; None where it does not say.
        num_classes: K.
        file: what ships, None where nothing is stored.
        built: the plain network; None for an exported file.
        metadata: what an exported file says of itself, else None.
        notes: sentences for the user.
        targets: "single": an image has one class; "multi": several, each by a sigmoid of its logit.
    """

    name: str
    kind: str
    network: nn.Module
    preprocessing: Preprocessing
    class_names: list[str] | None
    num_classes: int
    file: Path | None = None
    built: Built | None = None
    metadata: Metadata | None = None
    notes: list[str] = field(default_factory=list)
    targets: str = "single"


def find(name: str) -> Found:
    """Return what ``name`` names.

    Raises:
        InputError: a run that has no student yet, a folder without one, a file that is no export, or no such thing.
    """
    path = Path(name.removeprefix("local-dir:")).expanduser()
    if is_there(path):
        return Found(name, KINDS[path.suffix], path, recipe_above(path))
    if not path.is_dir():
        if path.suffix in KINDS:
            raise InputError(f"there is no file {name!r}.")
        if path.is_file() and ".py" not in path.suffix:
            raise InputError(f"{name!r} is a file, but no export ({', '.join(KINDS)}); weights go to --weights.")
        if "/" in name and not name.startswith(SOURCES) and not is_own_file(name):
            raise InputError(f"there is no folder {name!r}: give a run's folder, its student folder or a model's name.")
        resolve(name)  # a misspelt one is told as such
        return Found(name, "model", None, None)
    return in_folder(path, name, "its student folder, a model's name or an exported file")


def open_target(
    found: Found,
    data: DataSet | None,
    weights: str = "auto",
    image_size: int | None = None,
    recipe: Recipe | None = None,
) -> Target:
    """Build or load what was found.

    Args:
        found: by ``find``.
        data: decides class count and image size of a model that is given by name; None: its own.
        weights: as in a recipe; only for a model by name.
        image_size: pixels a side; only for a model by name.
        recipe: whose section ``student`` says with which arguments a model by name is made and what its input is to
            be; ``data.mean`` and ``data.std`` hold where nothing else is said. None: neither.

    Raises:
        InputError: it cannot be built, or an argument does not apply to it.
    """
    refuse_beside(found, {"weights": weights != "auto", "image size": image_size is not None})
    if found.kind in KINDS.values():
        return _open_file(found)
    if found.kind == "model":
        return _open_model(found.name, data, weights, image_size, recipe)
    return _open_folder(found)


def refuse_backbone(target: Target) -> None:
    """Refuse a network that gives embeddings where classes are asked for.

    Raises:
        InputError: it is one.
    """
    if not target.num_classes:
        raise InputError(
            f"{target.name} is a backbone: it gives embeddings and no classes (it was distilled without labels). Train "
            "a head on it: kdtool run --student local-dir:FOLDER student.new_head=true, on data with classes."
        )


def _open_file(found: Found) -> Target:
    assert found.path is not None
    network, meta = open_exported(found.path)
    how, names = meta.preprocessing, meta.class_names
    return Target(
        found.name, found.kind, network, how, names, len(names), found.path, metadata=meta, targets=meta.targets
    )


def _open_model(name: str, data: DataSet | None, weights: str, image_size: int | None, recipe: Recipe | None) -> Target:
    beside = config_of(Path(weights).expanduser().parent)
    cfg = beside.get("pretrained_cfg") or {}
    classes = len(data.class_names) if data is not None else beside.get("num_classes") or _own_classes(name)
    channels = recipe.data.channels if recipe is not None else _channels(cfg)
    if image_size is None:
        own = (cfg.get("input_size") or (None,))[-1] or own_image_size(name)
        image_size = own or (default_image_size(data.native_size) if data is not None else None)
    built = build(
        name,
        weights,
        classes,
        image_size,
        dict(recipe.student.model_args) if recipe is not None else None,
        prefer_scratch=data is not None and data.name == "digits",
        said=[of_section(recipe.student, "student")] if recipe is not None else (),
        otherwise=[of_data(recipe.data)] if recipe is not None else (),
        weights_key=recipe.student.weights_key if recipe is not None else None,
        channels=channels,
    )
    notes = [*built.notes, *built.warnings]
    if built.needs_training:
        notes.append(f"{name} was never trained on these classes: expect accuracy at chance level")
    names = [str(each) for each in beside["label_names"]] if beside.get("label_names") else None
    file = Path(weights).expanduser() if weights not in ("auto", "pretrained", "scratch") else None
    own_cfg = getattr(built.module, "pretrained_cfg", None) or {}
    if built.origin != "pretrained":
        own_cfg = {**own_cfg, "crop_pct": 1.0, "interpolation": "bicubic"}
    said = {"mean": built.mean, "std": built.std, "interpolation": built.interpolation, "crop_pct": built.crop_pct}
    how = Preprocessing.of(
        built, {**own_cfg, **cfg, **{key: value for key, value in said.items() if value is not None}}
    )
    return Target(name, "model", built.tapped(), how, names, built.num_classes, file, built, notes=notes)


def _channels(cfg: Mapping[str, Any]) -> int:
    """Return the channels of the images that a saved configuration is for."""
    return int((cfg.get("input_size") or (3,))[0])


def _own_classes(name: str) -> int:
    """Return the class count that a model of timm's was published with, 1000 where it does not say."""
    import timm

    cfg = timm.models.get_pretrained_cfg(name) if timm.is_model(name) else None
    return int(getattr(cfg, "num_classes", None) or 1000)


def _open_folder(found: Found) -> Target:
    assert found.path is not None
    folder = found.path / "student" if found.kind == "run" else found.path
    config = config_of(folder)
    own_code = "kdtool" in config
    if own_code and found.kind != "run":
        source = config["kdtool"].get("source")
        raise InputError(
            f"{found.name} holds weights of an architecture of your own, {source}. Code is never run because a weights "
            f"folder names it: give {source} with --weights {folder / WEIGHTS}, or the run's folder."
        )
    cfg = config.get("pretrained_cfg") or {}
    size = int(cfg["input_size"][-1]) if cfg.get("input_size") else None
    said = config.get("num_classes", cfg.get("num_classes"))
    classes = 1000 if said is None else int(said)
    channels = _channels(cfg)
    if own_code:
        assert found.recipe is not None
        student = found.recipe.student
        built = build(student.model, str(folder / WEIGHTS), classes, size, dict(student.model_args), channels=channels)
    else:
        built = build(f"local-dir:{folder}", "auto", classes, size, channels=channels)
    if found.recipe is not None and found.recipe.train.channels_last:
        built.module.to(memory_format=torch.channels_last)  # the kernels of the run's own test
    names = config.get("label_names")
    return Target(
        found.name,
        found.kind,
        built.tapped(),
        Preprocessing.of(built, cfg),
        [str(name) for name in names] if names else None,
        classes,
        folder / WEIGHTS,
        built,
        notes=list(built.notes),
        targets=config.get(TARGETS, "single"),
    )
