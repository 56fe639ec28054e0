"""A folder of images: ``train/`` with ``val/`` or ``test/``, or one folder to split; below it, a folder a class."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdtool.errors import InputError, did_you_mean
from kdtool.tasks.images.data.dataset import Source, Split
from kdtool.tasks.images.data.decode import UNREADABLE, decode
from kdtool.tasks.images.options import Data

if TYPE_CHECKING:
    from PIL import Image

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
VAL_NAMES = ("val", "validation", "valid")


@dataclass(frozen=True)
class FileImages:
    """Images in files."""

    paths: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> Image.Image:
        try:
            return decode(self.paths[row])
        except UNREADABLE as error:
            raise InputError(f"image {self.paths[row]} cannot be read ({error}): mend or remove it.") from error


def open_source(folder: Path, cfg: Data) -> Source:
    """Open an image folder.

    Raises:
        InputError: no images, one class only, or splits whose classes differ.
    """
    train, links = folder / cfg.train_split, cfg.follow_links
    if cfg.train_split != "train" and not train.is_dir():
        raise InputError(f"data.train_split={cfg.train_split}: {folder} has no such folder.")
    if not _holds_classes(train):
        class_names, whole = _read(folder, None, links=links)
        return Source(class_names, whole, None, None, _fingerprint(folder, [whole]))
    class_names, train_split = _read(train, None, links=links)
    splits = {name: folder / name for name in ("test", *VAL_NAMES) if (folder / name).is_dir()}
    if cfg.test_split != "auto":
        if not (folder / cfg.test_split).is_dir():
            known = [path.name for path in folder.iterdir() if path.is_dir()]
            raise InputError(f"data.test_split={cfg.test_split}: no such folder. {did_you_mean(cfg.test_split, known)}")
        splits["test"] = folder / cfg.test_split
    val_name = next((name for name in VAL_NAMES if name in splits and splits[name] != splits.get("test")), None)
    test_name = "test" if "test" in splits else val_name
    read = {
        name: _read(splits[name], class_names, complete=name == test_name, links=links)[1]
        for name in dict.fromkeys((test_name, val_name))
        if name is not None
    }
    val = read[val_name] if val_name is not None else None
    return Source(class_names, train_split, read.get("test"), val, _fingerprint(folder, [train_split, *read.values()]))


def _holds_classes(folder: Path) -> bool:
    """Tell a split's folder from one that is missing, or that is itself a class which happens to be called so."""
    if not folder.is_dir():
        return False
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return any(path.is_dir() for path in entries) or not any(path.suffix.lower() in EXTENSIONS for path in entries)


def _read(
    folder: Path, class_names: list[str] | None, complete: bool = False, links: bool = False
) -> tuple[list[str], Split]:
    """Read one folder of class folders.

    With ``class_names``, labels follow those; ``complete``: none of them may be missing; ``links``: follow all links.
    """
    found = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    root = None if links else os.path.realpath(folder)
    paths = {name: [] if _leaves(folder / name, root) else list(_files(str(folder / name), root)) for name in found}
    empty = [name for name in found if not paths[name]]
    if not found or len(empty) == len(found):
        raise InputError(
            f"--data: {folder} holds no images in class folders. Expected {folder}/CLASS/IMAGE, images being "
            f"{', '.join(sorted(EXTENSIONS))} files."
        )
    if empty:
        raise InputError(
            f"--data: class folder {folder / empty[0]} holds no images (links that lead out of the data's folder are "
            "followed with data.follow_links=true only); fill or remove it."
        )
    if class_names is None:
        class_names = found
        if len(found) < 2:
            raise InputError(f"--data: {folder} has one class only ({found[0]}); two or more are needed.")
    strangers = [name for name in found if name not in class_names]
    if strangers:
        raise InputError(
            f"--data: {folder / strangers[0]} is no class of the training folder. "
            f"{did_you_mean(strangers[0], class_names)}"
        )
    missing = [name for name in class_names if name not in found]
    if complete and missing:
        raise InputError(
            f"--data: {folder} has no folder for class {missing[0]!r} of the training folder; the classes of both must "
            "be the same."
        )
    flat = [path for name in found for path in paths[name]]
    number = {name: i for i, name in enumerate(class_names)}
    labels = [number[name] for name in found for _ in paths[name]]
    return class_names, Split(FileImages(tuple(flat)), np.array(labels, dtype=np.int64), np.arange(len(flat)))


def _leaves(path: Path | str, root: str | None) -> bool:
    """Tell whether a path's real place lies outside the folder ``root``; None: all places are inside."""
    return root is not None and os.path.commonpath([os.path.realpath(path), root]) != root


def _files(folder: str, root: str | None, above: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield the images below a folder in order.

    Hidden files are passed over, and so are links to folders and links that lead out of ``root``; where that is None,
    all links are followed but those that lead back to a folder ``above``. Only links are resolved: a folder may hold a
    million files.
    """
    if root is None:
        place = os.path.realpath(folder)
        if place in above:
            return
        above |= {place}
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=root is None):
            yield from _files(entry.path, root, above)
        elif _is_image(entry) and not (entry.is_symlink() and _leaves(entry.path, root)):
            yield entry.path


def _is_image(entry: os.DirEntry[str]) -> bool:
    return os.path.splitext(entry.name)[1].lower() in EXTENSIONS and entry.is_file()


def images_below(folder: Path, follow_links: bool = False) -> Iterator[str]:
    """Yield the paths of all images below a folder, in order."""
    return _files(str(folder), None if follow_links else os.path.realpath(folder))


def unlabelled_images(folder: Path, follow_links: bool = False) -> FileImages:
    """Return all images below a folder, whatever its structure.

    Raises:
        InputError: it is missing or holds none.
    """
    if not folder.is_dir():
        raise InputError(f"data.unlabelled={folder}: there is no such folder.")
    paths = tuple(images_below(folder, follow_links))
    if not paths:
        raise InputError(f"data.unlabelled={folder} holds no images ({', '.join(sorted(EXTENSIONS))}).")
    return FileImages(paths)


def _fingerprint(folder: Path, splits: list[Split]) -> str:
    return fingerprint(folder, (path for split in splits for path in _paths(split)))


def _paths(split: Split) -> tuple[str, ...]:
    assert isinstance(split.images, FileImages)
    return split.images.paths


def fingerprint(folder: Path, paths: Iterable[str]) -> str:
    """Digest names, sizes and times: reading every byte of a large folder would cost minutes a run."""
    digest = hashlib.sha256()
    for path in paths:
        stat = os.stat(path)
        digest.update(f"{os.path.relpath(path, folder)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()
