"""Which files, or splits by name, are trained on, chosen by and tested on."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path

from kdtool.errors import InputError, did_you_mean
from kdtool.recipe.schema import Data

VAL_NAMES = ("validation", "val", "valid", "dev")
"""What a split to choose epochs by is called, the first of these."""

_SHARD = re.compile(r"[-_]\d{3,}(?:-of-\d+)?$")


def roles_of(names: Iterable[str], cfg: Data, what: str) -> dict[str, str]:
    """Return the names of the splits to read, by "train", "test" and "val"; the latter two where they are there.

    Args:
        names: the splits that there are.
        cfg: the recipe's section ``data``.
        what: what they are called in messages.

    Raises:
        InputError: there is no training split, or not the test split that is asked for.
    """
    there = list(names)
    if cfg.train_split not in there:
        raise InputError(
            f"--data {cfg.name}: there is no {what} {cfg.train_split!r} to train on; data.train_split names another. "
            f"{did_you_mean(cfg.train_split, there)}"
        )
    found = {"train": cfg.train_split}
    if cfg.test_split != "auto":
        if cfg.test_split not in there:
            raise InputError(
                f"--data {cfg.name}: data.test_split={cfg.test_split}: there is no such {what}. "
                f"{did_you_mean(cfg.test_split, there)}"
            )
        found["test"] = cfg.test_split
    elif "test" in there:
        found["test"] = "test"
    if found.get("test") == cfg.train_split:
        raise InputError(f"--data {cfg.name}: data.train_split and data.test_split are both {cfg.train_split!r}.")
    val = next((name for name in VAL_NAMES if name in there and name not in found.values()), None)
    return found if val is None else {**found, "val": val}


def files_of(folder: Path, cfg: Data, kinds: Collection[str]) -> dict[str, list[Path]]:
    """Return the files of each split in a folder, shards in the order of their names.

    They lie in the folder or, where it has none, in its folder ``data``, as Hugging Face has them.

    Args:
        folder: where.
        cfg: the recipe's section ``data``.
        kinds: how the names of files end that can be read.

    Raises:
        InputError: there are none, two kinds of one split, or one is a link that leads out of the folder.
    """
    found: dict[str, list[Path]] = {}
    for place in (folder, folder / "data"):
        for file in sorted(place.iterdir()) if place.is_dir() and not found else ():
            if file.suffix.lower() in kinds and not file.name.startswith(".") and file.is_file():
                found.setdefault(_SHARD.sub("", file.stem), []).append(file)
    if not found:
        raise InputError(f"--data {folder}: the folder holds no file of texts (train{', train'.join(kinds)}).")
    for name, files in found.items():
        if len({file.suffix.lower() for file in files}) > 1:
            raise InputError(
                f"--data {folder}: split {name!r} is there twice, as {' and '.join(file.name for file in files[:3])}. "
                "Keep one."
            )
    outside = [file for files in found.values() for file in files if not _inside(file, folder)]
    if outside and not cfg.follow_links:
        raise InputError(
            f"--data: {outside[0]} is a link that leads out of the data's folder; data.follow_links=true allows it."
        )
    return found


def refuse_large(files: Iterable[Path], cfg: Data) -> None:
    """Refuse files that are larger than what may be held in memory.

    Raises:
        InputError: they are.
    """
    size_gb = sum(file.stat().st_size for file in files) / 1e9
    if size_gb > cfg.memory_budget_gb:
        raise InputError(
            f"--data {cfg.name}: {size_gb:.1f} GB of texts are more than data.memory_budget_gb="
            f"{cfg.memory_budget_gb:g}, and are held in memory. Raise the budget, or name smaller files."
        )


def _inside(file: Path, folder: Path) -> bool:
    return file.resolve().is_relative_to(folder.resolve())
