"""Which splits timm's data sets have: asked for one that is not there, timm may quietly give another."""

from __future__ import annotations

import json
from pathlib import Path

from kdtool.errors import InputError, did_you_mean
from kdtool.tasks.images.options import Data

VAL_NAMES = ("val", "validation", "valid")


def roles(cfg: Data) -> dict[str, str]:
    """Return what timm takes as a split for the roles "train", "test" and "val", as far as they are there.

    Raises:
        InputError: a split that the recipe names is not there.
        ImportError: a package is missing.
    """
    there = _there(cfg)
    if there is None:
        found = {"train": cfg.train_split}
        return found if cfg.test_split == "auto" else {**found, "test": cfg.test_split}
    found = {"train": _named(cfg, "train_split", cfg.train_split, there)}
    if cfg.test_split != "auto":
        found["test"] = _named(cfg, "test_split", cfg.test_split, there)
    elif "test" in there:
        found["test"] = there["test"]
    val = next((there[name] for name in VAL_NAMES if name in there and there[name] not in found.values()), None)
    return found if val is None else {**found, "val": val}


def _named(cfg: Data, key: str, name: str, there: dict[str, str]) -> str:
    if name in there:
        return there[name]
    if ".tar" in name or "[" in name:
        return name  # shards, or a slice, in the reader's own notation
    raise InputError(f"data.{key}={name}: {cfg.name} has no such split. {did_you_mean(name, there)}")


def _there(cfg: Data) -> dict[str, str] | None:
    """Return the splits by name, each as timm takes it; None where only its reader knows."""
    kind, _, rest = cfg.name.partition("/")
    if kind in ("hfds", "hfids"):
        from datasets import get_dataset_split_names

        return {name: name for name in get_dataset_split_names(rest)}
    if kind == "torch":
        return _of_torchvision(cfg, rest.lower())
    return _of_shards(cfg) if kind == "wds" else None


def _of_torchvision(cfg: Data, name: str) -> dict[str, str]:
    root = Path(cfg.root).expanduser() if cfg.root else None
    if root is None:
        raise InputError(f"--data {cfg.name} needs data.root, the folder where its files are or go.")
    if name in ("image_folder", "folder"):
        if not root.is_dir():
            raise InputError(f"--data {cfg.name}: data.root={cfg.root} is no folder.")
        return {path.name: path.name for path in sorted(root.iterdir()) if path.is_dir()}
    test = "val" if name in ("imagenet", "places365", "inaturalist", "inat") else "test"
    return {"train": "train", test: test}


def shard_files(cfg: Data, split: str) -> list[Path]:
    """Return the tar files of a WebDataset's split, as ``roles`` names it.

    Raises:
        InputError: they are not files of ``data.root``.
    """
    root = Path(cfg.root or "").expanduser()
    names = split.split("::")
    for info in (root / "_info.json", root / "info.json"):
        if info.is_file() and split in (splits := json.loads(info.read_text())["splits"]):
            names = splits[split]["filenames"]
    missing = [name for name in names if not (root / name).is_file()]
    if missing:
        raise InputError(
            f"--data {cfg.name}: {missing[0]} is no file in data.root={cfg.root}. Streams (train.steps) are read from "
            "a folder of tar files; a split is one of them, several joined by ::, or a name."
        )
    return [root / name for name in names]


def _of_shards(cfg: Data) -> dict[str, str] | None:
    """Return a WebDataset's splits: those of its ``_info.json``, else its shards by name (``train-0001.tar``)."""
    if not cfg.root:
        raise InputError(f"--data {cfg.name} needs data.root, the folder (or address) of its shards.")
    if "://" in cfg.root:
        return None
    root = Path(cfg.root).expanduser()
    for info in (root / "_info.json", root / "info.json"):
        if info.is_file():
            return {str(name): str(name) for name in json.loads(info.read_text())["splits"]}
    shards: dict[str, list[str]] = {}
    for file in sorted([*root.glob("*.tar"), *root.glob("*/*.tar")]):
        name = file.stem.split("-")[0] if file.parent == root else file.parent.name
        shards.setdefault(name, []).append(str(file.relative_to(root)))
    if not shards:
        raise InputError(f"--data {cfg.name}: data.root={cfg.root} holds no shards (SPLIT-*.tar or SPLIT/*.tar).")
    return {name: "::".join(files) for name, files in shards.items()}
