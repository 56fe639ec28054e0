"""Which files, or splits by name, are trained on, chosen by and tested on."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path

from kdtool.errors import InputError, did_you_mean
from kdtool.recipe.schema import Data

VAL_NAMES = ("validation", "val", "valid", "dev")
"""What a split to choose epochs by is called, the first of these."""

_SHARD = re.compile(r"[-_](\d{3,})(?:-of-\d+)?$")


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


def kind_of(path: Path, kinds: Collection[str]) -> str | None:
    """Return how a file's name ends, of the ends that are known the longest; None: in none of them."""
    found = [kind for kind in kinds if path.name.lower().endswith(kind)]
    return max(found, key=len, default=None)


def files_of(folder: Path, cfg: Data, kinds: Collection[str]) -> dict[str, list[Path]]:
    """Return the files of each split in a folder, shards in the order of their names.

    They lie in the folder or, where it has none, in its folder ``data``, as Hugging Face has them; or as a split's
    shards in a folder of its name there. Shards may be of several kinds.

    Args:
        folder: where.
        cfg: the recipe's section ``data``.
        kinds: how the names of files end that can be read.

    Raises:
        InputError: there are none, a split or a shard is there in two kinds, or one is a link that leads out of the
            folder.
    """
    found: dict[str, list[Path]] = {}
    for place in (folder, folder / "data"):
        if found or not place.is_dir():
            continue
        for file in _files_in(place, kinds):
            found.setdefault(_SHARD.sub("", _stem(file, kinds)), []).append(file)
        for own in sorted(each for each in place.iterdir() if each.is_dir() and _is_split(each.name, cfg)):
            shards = _files_in(own, kinds)
            if shards and own.name in found:
                raise _twice(folder, own.name, [found[own.name][0].name, f"the folder {own.name}"])
            if shards:
                found[own.name] = shards
    if not found:
        raise InputError(f"--data {folder}: the folder holds no file of texts (train{', train'.join(kinds)}).")
    for name, files in found.items():
        by_shard: dict[str, list[str]] = {}
        for file in files:
            by_shard.setdefault(_shard(file, name, kinds), []).append(file.name)
        # Other kinds are other shards where all of them are numbered.
        several = len({kind_of(file, kinds) for file in files}) > 1
        same = next((names for names in by_shard.values() if len(names) > 1), None)
        if several and (same or "" in by_shard):
            raise _twice(folder, name, same or [file.name for file in files])
    outside = [file for files in found.values() for file in files if not _inside(file, folder)]
    if outside and not cfg.follow_links:
        raise InputError(
            f"--data: {outside[0]} is a link that leads out of the data's folder; data.follow_links=true allows it."
        )
    return found


def _files_in(place: Path, kinds: Collection[str]) -> list[Path]:
    return [
        file for file in sorted(place.iterdir())
        if kind_of(file, kinds) is not None and not file.name.startswith(".") and file.is_file()
    ]  # fmt: skip


def _is_split(name: str, cfg: Data) -> bool:
    return name in (cfg.train_split, cfg.test_split, "test", *VAL_NAMES)


def _stem(file: Path, kinds: Collection[str]) -> str:
    return file.name[: -len(kind_of(file, kinds) or "")]


def _shard(file: Path, split: str, kinds: Collection[str]) -> str:
    """Return what tells a shard from a split's others: its number, or in the split's own folder its name; else ""."""
    stem = _stem(file, kinds)
    if file.parent.name == split:
        return stem
    found = _SHARD.search(stem)
    return str(int(found[1])) if found is not None else ""


def _twice(folder: Path, split: str, files: list[str]) -> InputError:
    return InputError(f"--data {folder}: split {split!r} is there twice, as {' and '.join(files[:3])}. Keep one.")


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
