"""Labels in a table: a file with a column of images' paths and one of classes, or a folder with ``metadata`` files.

The latter is Hugging Face's ``imagefolder``: ``metadata.csv`` or ``metadata.jsonl`` with a column ``file_name``, beside
the images or in each split's folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kdtool.errors import InputError
from kdtool.tasks.common.files.cells import Unfit, text_of
from kdtool.tasks.common.files.kinds import open_table
from kdtool.tasks.common.files.labels import LABEL_COLUMNS, in_order, none_known
from kdtool.tasks.common.files.tables import Row, Table, columns_called, shown
from kdtool.tasks.images.data import several
from kdtool.tasks.images.data.dataset import Source, Split
from kdtool.tasks.images.data.files import FileImages, fingerprint, leaves
from kdtool.tasks.images.data.folder import SPLITS
from kdtool.tasks.images.data.several import Labels
from kdtool.tasks.images.options import Data

IMAGE_COLUMNS = ("image", "filename", "file_name", "file", "path", "filepath", "image_path", "img")
"""Columns of images' paths that are found by their names, the first of these; whatever their case."""

SPLIT_COLUMNS = ("split", "subset", "set")
"""Likewise, of splits' names."""

METADATA = tuple(f"metadata{ending}" for ending in (".csv", ".jsonl", ".parquet"))

NAMED = 20
"""Lines that an error names at most."""


@dataclass
class _Read:
    """What was read of tables, a row a sample.

    Attributes:
        paths, labels, splits: of each sample; None: it has no class, or no split is named.
        declared: the names of classes that a table gives.
        column: that of classes; None: each has one of its own.
        bad: what is wrong with each line that holds no sample.
    """

    paths: list[str] = field(default_factory=list)
    labels: list[Labels | None] = field(default_factory=list)
    splits: list[str | None] = field(default_factory=list)
    declared: list[str] | None = None
    column: str | None = None
    bad: list[str] = field(default_factory=list)


def open_source(file: Path, cfg: Data, measuring: bool = False) -> Source:
    """Open a table with labels; paths in it are relative to its folder.

    Args:
        file: where.
        cfg: the recipe's section ``data``.
        measuring: as for ``kdtool.tasks.images.data.open.open_data``.

    Raises:
        InputError: it cannot be read, its columns are not there, or images that it names are not.
    """
    read = _Read()
    table = open_table(file, "images with labels")
    image, label = _column(table, IMAGE_COLUMNS), _column(table, LABEL_COLUMNS)
    if image is None or (label is None and cfg.targets == "single"):
        lacking, names = ("images", IMAGE_COLUMNS) if image is None else ("classes", LABEL_COLUMNS)
        several_too = " data.targets=multi reads a column of 0 and 1 for each class." if image is not None else ""
        raise InputError(
            f"{file}: no column of {lacking} was found by its name ({', '.join(names)}). Its columns: "
            f"{', '.join(map(shown, table.columns[:20]))}.{several_too}"
        )
    _rows(table, image, label, file.parent, None, cfg, read)
    return _source(str(file), file.parent, read, cfg, measuring)


def open_metadata(folder: Path, cfg: Data, measuring: bool = False) -> Source | None:
    """Open a folder by its ``metadata`` files; None where there are none with a column of classes.

    Raises:
        InputError: as for ``open_source``.
    """
    places = [folder, *(path for path in sorted(folder.iterdir()) if path.is_dir())]
    read, found = _Read(), False
    for place in places:
        file = next((place / name for name in METADATA if (place / name).is_file()), None)
        table = open_table(file, "images with labels") if file is not None else None
        image = _column(table, IMAGE_COLUMNS) if table is not None else None
        label = _column(table, LABEL_COLUMNS) if table is not None else None
        if table is not None and image is not None and (label is not None or cfg.targets == "multi"):
            found = True
            _rows(table, image, label, place, None if place == folder else place.name, cfg, read)
    if not found:
        return None
    if not any(read.splits):  # one table for all: a path begins with its split's name
        first = [os.path.relpath(path, folder).split(os.sep)[0] for path in read.paths]
        if all(_role(name, cfg) is not None for name in first):
            read.splits = list(first)
    return _source(str(folder), folder, read, cfg, measuring)


def _column(table: Table, names: Sequence[str]) -> str | None:
    return next((found[0] for name in names if (found := columns_called(table, (name,)))), None)


def _rows(table: Table, image: str, label: str | None, place: Path, split: str | None, cfg: Data, read: _Read) -> None:
    """Read a table's rows; ``split`` is the one that all of them are of, unless a column says so.

    Without a column of classes, each further one is a class's.
    """
    column = _column(table, SPLIT_COLUMNS)
    classes = [label] if label is not None else [name for name in table.columns if name not in (image, column)]
    if not classes:
        raise InputError(f"{table.origin}: it has no column of classes beside {', '.join(map(shown, table.columns))}.")
    wanted = [image, *([column] if column is not None else []), *classes]
    declared = table.declared(label) if label is not None else in_order(classes)
    read.declared, read.column = read.declared or declared, read.column or label
    labels = several.one if cfg.targets == "single" else several.in_cell if label else several.by_column(classes)
    root = None if cfg.follow_links else os.path.realpath(place)
    for row in table.rows(wanted):
        try:
            path, named, cells = _sample(row, image, place, root, column is not None)
            found = labels(cells, declared)
        except Unfit as why:
            read.bad.append(f"{table.origin}, {table.unit} {row.line}: {why}")
            continue
        read.paths.append(path)
        read.labels.append(found)
        read.splits.append(named or split)


def _sample(
    row: Row, image: str, place: Path, root: str | None, has_split: bool
) -> tuple[str, str | None, Sequence[Any]]:
    """Return the path of a row's image, its split, None without, and its cells of classes."""
    if row.cells is None:
        raise Unfit(row.why)
    if isinstance(row.cells[0], (bytes, dict)):
        raise Unfit("its image stands in the table itself; such .parquet files are read as a folder, --data FOLDER.")
    path = os.path.normpath(place / text_of(row.cells[0], image))
    split = text_of(row.cells[1], "split") if has_split else None
    if leaves(path, root):
        raise Unfit(f"{path} lies outside the table's folder; data.follow_links=true allows that.")
    if not os.path.isfile(path):
        raise Unfit(f"there is no file {path}.")
    return path, split, row.cells[2 if has_split else 1 :]


def _role(name: str | None, cfg: Data) -> str | None:
    """Return which split a name stands for: "train", "test" or "val"; None: none."""
    for role, asked in (("train", cfg.train_split), ("test", cfg.test_split)):
        if name == asked:
            return role
    usual = {"train": cfg.train_split == "train", "test": cfg.test_split == "auto", "val": True}
    folded = (name or "").casefold()
    return next((role for role, names in SPLITS.items() if usual[role] and folded in names), None)


def _source(origin: str, root: Path, read: _Read, cfg: Data, measuring: bool) -> Source:
    remarks = _remarks(origin, read, cfg)
    named = any(split is not None for split in read.splits)
    roles = [_role(split, cfg) if named else "train" for split in read.splits]
    if others := sorted({str(split) for split, role in zip(read.splits, roles, strict=True) if role is None}):
        remarks.append(
            f"{origin}: rows of the splits {', '.join(others[:5])} were passed over; train, val and test are read"
        )
    if "train" not in roles and not measuring:
        raise InputError(
            f"--data {origin}: no row is of the split {cfg.train_split!r}; data.train_split names another."
        )
    names = _class_names(read, roles, measuring)
    if not names and not measuring and cfg.labels:
        raise none_known(origin, read.column or "", roles.count("train"), "images")
    if (joined := several.taken_for_one(names, cfg.targets)) is not None:
        remarks.append(f"{origin}: {joined}")
    for found, role, path in zip(read.labels, roles, read.paths, strict=True):
        if role is not None and (strange := [name for name in found or () if name not in names]):
            raise InputError(f"--data {origin}: the class {strange[0]!r} of {path} does not occur in training.")
    labels, sets = _numbers(read, names, cfg)
    whole = Split(FileImages(tuple(read.paths)), labels, np.arange(len(labels), dtype=np.int64))
    places = {role: np.flatnonzero([each == role for each in roles]) for role in SPLITS}
    splits = {role: whole.take(rows) for role, rows in places.items() if len(rows)}
    content = [fingerprint(root, read.paths), names, labels.tolist(), roles]
    content += [] if sets is None else [sets.tolist()]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return Source(
        names, splits.get("train"), splits.get("test"), splits.get("val"), digest,
        origins={role: f"{origin}, split {role}" if named else origin for role in splits},
        remarks=remarks,
        sets=sets,
    )  # fmt: skip


def _numbers(read: _Read, names: list[str], cfg: Data) -> tuple[np.ndarray, np.ndarray | None]:
    """Return (N,) classes, or numbers of sets of classes with these."""
    if cfg.targets == "multi":
        return several.numbered(read.labels, names)
    number = {name: i for i, name in enumerate(names)}
    return np.array([number.get(label[0], -1) if label else -1 for label in read.labels], dtype=np.int64), None


def _remarks(origin: str, read: _Read, cfg: Data) -> list[str]:
    """Return what is to be said of lines without a sample.

    Raises:
        InputError: they are more than ``data.max_bad`` allows, or all.
    """
    count, total = len(read.bad), len(read.bad) + len(read.paths)
    few = f"{' '.join(read.bad[:NAMED])}{f' And {count - NAMED} more.' if count > NAMED else ''}"
    if not read.paths:
        raise InputError(f"--data {origin} names no image. {few}".strip())
    if count > cfg.max_bad * max(total, 100):
        raise InputError(
            f"--data {origin}: {count} of {total} lines hold no image with its class, more than "
            f"data.max_bad={cfg.max_bad:g} allows. {few}"
        )
    return (
        [f"{count} of {total} lines of {origin} hold no image with its class and were left out: {few}"] if count else []
    )


def _class_names(read: _Read, roles: Sequence[str | None], measuring: bool) -> list[str]:
    """Return the classes of training, or of all that is measured: those declared, or those found."""
    if read.declared is not None:
        return list(read.declared)
    found = {
        name for label, role in zip(read.labels, roles, strict=True) for name in label or ()
        if role == "train" or (measuring and role is not None)
    }  # fmt: skip
    return in_order(found)
