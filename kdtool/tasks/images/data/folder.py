"""A folder of images: ``train/`` with ``val/`` or ``test/``, or one folder to split; below it, a folder a class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kdtool.errors import InputError, did_you_mean
from kdtool.tasks.common.files.kinds import KINDS
from kdtool.tasks.images.data.dataset import Source, Split
from kdtool.tasks.images.data.files import FileImages, Passed, fingerprint, is_image, known_endings, leaves, walk
from kdtool.tasks.images.options import Data

SPLITS = {"train": ("train", "training"), "test": ("test", "testing"), "val": ("val", "validation", "valid")}
"""What a split's folder is called, in capitals or not; of several that are there, the first."""


_LABELLESS = " data.labels=false distils images without classes, by what a teacher makes of them."


@dataclass(frozen=True)
class _Reader:
    """How class folders are read, and what is to be said of them.

    Attributes:
        links: follow all links.
        measuring: as for ``open_source``.
        passed: what is no image.
        remarks: what may be a mistake.
    """

    links: bool
    measuring: bool
    passed: Passed = field(default_factory=Passed)
    remarks: list[str] = field(default_factory=list)


def open_source(folder: Path, cfg: Data, measuring: bool = False) -> Source:
    """Open an image folder.

    Args:
        folder: where.
        cfg: the recipe's section ``data``.
        measuring: networks are measured on it, and nothing is learnt: there may be no training split, one class only,
            and classes that a split lacks.

    Raises:
        InputError: no images, one class only, or splits whose classes differ.
    """
    reader = _Reader(cfg.follow_links, measuring)
    if not cfg.labels and (flat := _flat(folder, cfg, reader)) is not None:
        return flat
    there, places = _folders(folder), _places(folder, cfg)
    if "train" not in places:
        only_splits = bool(places) and len(places) == len(there)
        if only_splits and not measuring:
            raise InputError(
                f"--data: {folder} holds {', '.join(path.name for path in places.values())} and nothing to train on; "
                f"name the folder of training images {folder / 'train'}, or give it with data.train_split."
            )
        places = places if only_splits else {}
    if not places:
        if len(there) > 1 and all(_is_split(path) for path in there):
            raise InputError(
                f"--data: {folder} holds {', '.join(path.name for path in there)} and no class folders in them. "
                f"Expected {there[0]}/CLASS/IMAGE.{_LABELLESS}"
            )
        tables = [path.name for path in sorted(folder.iterdir()) if path.suffix.lower() in KINDS]
        if tables and not there:
            raise InputError(
                f"--data: {folder} holds no class folders, but a table: if that has the classes, give "
                f"--data {folder / tables[0]}."
            )
        class_names, whole = _read(folder, None, reader)
        return _source(folder, class_names, {"train": whole}, {"train": folder}, reader)
    if beside := [path.name for path in there if path not in places.values()]:
        reader.remarks.append(f"{folder} holds splits; folders beside them were passed over: {_few(beside, 5)}")
    # Every class is measured: of validation only where that is the test split.
    whole_role = "test" if "test" in places else "val"
    names: list[str] | None = None
    read: dict[str, Split] = {}
    for role, place in places.items():
        names, read[role] = _read(place, names, reader, complete=role == whole_role)
    assert names is not None
    return _source(folder, names, read, places, reader)


def _flat(folder: Path, cfg: Data, reader: _Reader) -> Source | None:
    """Open images that lie in no class folders, or in a split's; None where there are none.

    All have the same label: there are no classes.
    """
    splits = {role: _called(folder, names) for role, names in SPLITS.items()}
    places = {role: place for role, place in splits.items() if place is not None} if splits["train"] else {}
    places = places or {"train": folder}
    if not any(is_image(path) for path in places["train"].iterdir()):
        return None
    root, read = None if cfg.follow_links else os.path.realpath(folder), {}
    for role, place in places.items():
        paths = tuple(walk(str(place), root, reader.passed))
        read[role] = Split(FileImages(paths), np.zeros(len(paths), dtype=np.int64), np.arange(len(paths)))
    return _source(folder, [], read, places, reader)


def _source(
    folder: Path, class_names: list[str], read: dict[str, Split], places: dict[str, Path], reader: _Reader
) -> Source:
    digest = fingerprint(folder, (path for split in read.values() for path in _paths(split)))
    passed = reader.passed.sentence()
    return Source(
        class_names, read.get("train"), read.get("test"), read.get("val"), digest,
        origins={role: str(place) for role, place in places.items()},
        notes=[f"files in {folder} {passed}"] if passed is not None else [],
        remarks=reader.remarks,
    )  # fmt: skip


def _places(folder: Path, cfg: Data) -> dict[str, Path]:
    """Return the folders of the splits that are there, by "train", "test" and "val" in this order.

    Raises:
        InputError: one that the recipe names is not there, or one is there twice.
    """
    found: dict[str, Path] = {}
    asked = {"train": "auto" if cfg.train_split == "train" else cfg.train_split, "test": cfg.test_split}
    for role, names in SPLITS.items():
        name = asked.get(role, "auto")
        place = _called(folder, names if name == "auto" else (name,))
        if place is None and name != "auto":
            near = did_you_mean(name, [path.name for path in _folders(folder)])
            raise InputError(f"data.{role}_split={name}: {folder} has no such folder. {near}")
        # A class may be called as a split is; where there is a training split it is none.
        splits = name != "auto" or (role != "train" and "train" in found)
        if place is not None and place not in found.values() and (splits or _holds_classes(place)):
            found[role] = place
    return found


def _called(folder: Path, names: Sequence[str]) -> Path | None:
    there = _folders(folder)
    for name in names:
        same = [path for path in there if path.name == name] or [p for p in there if p.name.casefold() == name]
        if len(same) > 1:
            raise InputError(
                f"--data: {folder} holds {same[0].name} and {same[1].name}: there is no telling which is the split. "
                "Rename one."
            )
        if same:
            return same[0]
    return None


def _is_split(folder: Path) -> bool:
    """Tell a folder that is called as a split is."""
    return any(folder.name.casefold() in names for names in SPLITS.values())


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _holds_classes(folder: Path) -> bool:
    """Tell a split's folder from one that is itself a class which happens to be called so."""
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return any(path.is_dir() for path in entries) or not any(is_image(path) for path in entries)


def _read(
    folder: Path, class_names: list[str] | None, reader: _Reader, complete: bool = False
) -> tuple[list[str], Split]:
    """Read one folder of class folders.

    With ``class_names``, labels follow those; ``complete``: none of them may be missing.
    """
    found = [path.name for path in _folders(folder)]
    root = None if reader.links else os.path.realpath(folder)
    if outside := [name for name in found if leaves(folder / name, root)]:
        raise InputError(
            f"--data: class folders of {folder} are links that lead out of it ({_few(outside, 5)}); "
            "data.follow_links=true follows such links."
        )
    loose = sum(is_image(path) for path in folder.iterdir() if not path.name.startswith("."))
    paths = {name: list(walk(str(folder / name), root, reader.passed)) for name in found}
    empty = [name for name in found if not paths[name]]
    passed = reader.passed.sentence()
    instead = f" There {passed}." if passed is not None else ""
    if not found or len(empty) == len(found):
        raise InputError(
            f"--data: {folder} holds no images in class folders. Expected {folder}/CLASS/IMAGE, images being "
            f"{known_endings()} files.{instead}{_LABELLESS if loose else ''}"
        )
    if empty:
        raise InputError(f"--data: class folder {folder / empty[0]} holds no images; fill or remove it.{instead}")
    nested = _nested(folder, paths)
    if len(found) < 2 and class_names is None and not reader.measuring:
        more = f" But {nested}." if nested else ""
        raise InputError(f"--data: {folder} has one class only ({found[0]}); two or more are needed.{more}")
    if nested:
        reader.remarks.append(nested)
    if loose:
        reader.remarks.append(f"{loose:,} images of {folder} lie in no class folder and were passed over")
    known = found if class_names is None else class_names
    if strangers := [name for name in found if name not in known]:
        if not reader.measuring:
            near = did_you_mean(strangers[0], known)
            raise InputError(f"--data: {folder / strangers[0]} is no class of the training folder. {near}")
        known = [*known, *strangers]
    missing = [name for name in known if name not in found]
    if complete and missing and not reader.measuring:
        raise InputError(
            f"--data: {folder} has no folder for class {missing[0]!r} of the training folder; the classes of both must "
            "be the same."
        )
    flat = [path for name in found for path in paths[name]]
    number = {name: i for i, name in enumerate(known)}
    labels = [number[name] for name in found for _ in paths[name]]
    return known, Split(FileImages(tuple(flat)), np.array(labels, dtype=np.int64), np.arange(len(flat)))


def _nested(folder: Path, paths: dict[str, list[str]]) -> str:
    """Return what to say where every class holds folders of images and none itself; "" where one does."""
    inner: list[str] = []
    for name, files in paths.items():
        own = {os.path.relpath(os.path.dirname(file), folder / name).split(os.sep)[0] for file in files}
        if os.curdir in own:
            return ""
        inner += [f"{name}/{each}" for each in sorted(own)]
    if len(inner) <= len(paths):  # a folder within each class: no other classes
        return ""
    return (
        f"the classes of {folder} are {_few(list(paths), 4)}, none of which holds an image itself, but folders of them "
        f"({_few(inner, 4)}): if those are the classes, move them up into {folder}"
    )


def _few(names: Sequence[str], most: int) -> str:
    return f"{', '.join(names[:most])}{', ...' if len(names) > most else ''}"


def _paths(split: Split) -> tuple[str, ...]:
    assert isinstance(split.images, FileImages)
    return split.images.paths
