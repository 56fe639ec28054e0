"""Opening what ``data.name`` names: its kind of source, what is held out, and how large and how coloured it is."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kdtool.errors import InputError
from kdtool.tasks.common import held_out
from kdtool.tasks.common.files.kinds import KINDS
from kdtool.tasks.common.splits import kept
from kdtool.tasks.images.data import files, folder, parquet, table
from kdtool.tasks.images.data.dataset import LARGE, MEDIUM, SMALL, DataSet, Source, Split
from kdtool.tasks.images.data.digits import open_digits
from kdtool.tasks.images.data.stream import open_stream
from kdtool.tasks.images.data.timm_names import open_timm
from kdtool.tasks.images.data.unreadable import Pool, Unreadable
from kdtool.tasks.images.options import Data

LOOKED_AT = 64
"""How many images, spread over the training split, decide its native size and whether it is grey."""

PREFIXES = ("torch/", "hfds/", "hfids/", "wds/", "tfds/")
"""What timm's names of data sets begin with."""


def open_data(cfg: Data, stream: bool = False, measuring: bool = False) -> DataSet:
    """Open what ``data.name`` names and hold out what the recipe asks for.

    Args:
        cfg: the recipe's section ``data``.
        stream: do not hold the training set in memory, but read it from its shards again and again.
        measuring: networks are only measured on it: it may have no training split (``train`` is empty then), one class
            only, and classes that a split lacks.

    Raises:
        InputError: it is not there, is empty, has one class only, or needs a package that is missing.
    """
    source = open_stream(cfg) if stream else _open(cfg, measuring)
    if cfg.targets == "multi" and source.sets is None:
        raise InputError(
            f"--data {cfg.name}: data.targets=multi takes a table of images (or metadata files) with a column of "
            "classes such as a|b, or one of 0 and 1 for each class."
        )
    if len(source.class_names) < (2 if source.sets is None else 1) and not measuring and cfg.labels:
        raise InputError(f"--data {cfg.name}: one class only ({source.class_names}); two or more are needed.")
    train, val, test = _roles(source, cfg)
    named = {"training": train, "test": test, "validation": val}
    wanted = {name: split for name, split in named.items() if split is not train or source.train is not None}
    held_out.refuse_unfit(wanted, cfg, "images")
    stored = {"train": source.train, "test": source.test, "val": source.val}
    origins = held_out.origins(named, stored, source.origins, cfg)
    if not cfg.labels:
        train = _unlabelled(train)
        if not source.class_names:  # images in no class folders were given one label, to be held out by
            test, val = _unlabelled(test), _unlabelled(val) if val is not None and val is not test else val
            val = test if named["validation"] is named["test"] else val
        named = {"training": train, "test": test, "validation": val}
    unreadable = Unreadable(cfg.max_bad)
    for name, split in named.items():
        if split is not None:
            split.whole = Pool(name, split.rows, split.labels, unreadable, split.images)
    native, grey = _look_at(train if len(train) else test)
    digest = held_out.fingerprint(source.fingerprint, cfg)
    return DataSet(
        cfg.name, source.class_names, train, val, test, native, grey, digest, source.stream, unreadable,
        notes=source.notes,
        embeds=not cfg.labels,
        own_test=source.test is not None or source.val is not None,
        remarks=source.remarks,
        origins=origins,
        sets=source.sets,
    )  # fmt: skip


def _unlabelled(split: Split) -> Split:
    return dataclasses.replace(split, labels=np.full(len(split), -1, dtype=np.int64))


def _roles(source: Source, cfg: Data) -> tuple[Split, Split | None, Split]:
    if source.train is not None:
        return held_out.roles(
            source.train, source.val, source.test, cfg, in_memory=source.stream is None, sets=source.sets is not None
        )
    test = source.test if source.test is not None else source.val
    assert test is not None
    return test.take(np.arange(0)), source.val if source.val is not test else None, test


def _open(cfg: Data, measuring: bool) -> Source:
    name = cfg.name
    if name == "digits":
        return open_digits()
    path = Path(name).expanduser()
    if path.is_dir():
        if any(path.glob("*.parquet")) or any(path.glob("*/*.parquet")):
            return parquet.open_source(path, cfg)
        labelled = table.open_metadata(path, cfg, measuring)
        return labelled if labelled is not None else folder.open_source(path, cfg, measuring)
    if path.is_file():
        if path.suffix.lower() not in KINDS:
            raise InputError(
                f"--data {name} is a file; give a folder of images (one folder a class) or of parquet files, or a "
                f"table of images with their classes ({', '.join(KINDS)})."
            )
        return table.open_source(path, cfg, measuring)
    if name.startswith(PREFIXES):
        return open_timm(cfg)
    near = "Did you mean 'digits'? " if difflib.get_close_matches(name, ["digits"]) else ""
    raise InputError(
        f"--data {name}: there is no such folder. {near}Valid: digits, a folder of images or parquet files, a table of "
        f"images with their classes, or a name that timm knows ({', '.join(prefix + '…' for prefix in PREFIXES)})."
    )


def _look_at(split: Split) -> tuple[tuple[int, int], bool]:
    # Spread: the first images of a folder are all of one class.
    positions = np.unique(np.linspace(0, len(split) - 1, LOOKED_AT).astype(np.int64))
    pool = split.pool()
    read = [pool.read(split.images, int(split.rows[position])) for position in positions]
    pool.note(replaced for _, replaced in read)
    some = [np.asarray(image) for image, _ in read]
    height, width = (int(np.median([pixels.shape[axis] for pixels in some])) for axis in (0, 1))
    return (height, width), all(_is_grey(pixels) for pixels in some)


def _is_grey(pixels: np.ndarray) -> bool:
    return bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all())


def default_image_size(native_size: tuple[int, int]) -> int:
    """Return the pixels a side that images of this size are brought to: small images stay small."""
    side = max(native_size)
    if side <= SMALL:
        return SMALL
    return -(-side // 8) * 8 if side <= MEDIUM else LARGE


def thin(train: Split, cfg: Data, class_names: Sequence[str]) -> Split:
    """Return the student's training set: without excluded classes, so many of each class, and unlabelled extras.

    Raises:
        InputError: an unknown class, nothing left, or a folder of unlabelled images that is missing or empty.
    """
    thinned = train.take(kept(train.labels, train.rows, class_names, cfg, "image"))
    if cfg.unlabelled is None:
        return thinned
    place = Path(cfg.unlabelled).expanduser()
    extra = files.unlabelled_images(place, cfg.follow_links)
    return thinned.join(extra, files.fingerprint(place, extra.paths))
