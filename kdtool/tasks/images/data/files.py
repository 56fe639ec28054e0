"""Images in files: which files are images, which are passed over, and what identifies them."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from kdtool.errors import InputError
from kdtool.tasks.images.data.decode import HEIF, READER, UNREADABLE, Enough, decode, endings

if TYPE_CHECKING:
    from PIL import Image

LINKS = "links"
"""What ``Passed`` calls links that are not followed."""


GLANCE = 64
"""Pixels a side, at least, of an image that is only looked at."""


@dataclass(frozen=True)
class FileImages:
    """Images in files."""

    reader: ClassVar[int] = READER

    paths: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> Image.Image:
        return self.reduced(row, None)

    def glance(self, row: int) -> Image.Image:
        """Return image ``row``, of a JPEG a fraction of its pixels, as ``__getitem__`` does."""
        return self.reduced(row, lambda _: (GLANCE, GLANCE))

    def reduced(self, row: int, enough: Enough | None) -> Image.Image:
        """Return image ``row``, of a JPEG as many pixels as are ``enough``, as ``__getitem__`` does."""
        try:
            return decode(self.paths[row], enough)
        except UNREADABLE as error:
            raise InputError(f"image {self.paths[row]} cannot be read ({error}): mend or remove it.") from error


@dataclass
class Passed:
    """What lay among the images and was passed over.

    Attributes:
        kinds: how many, by the ending of their names, "no ending", or ``LINKS``.
    """

    kinds: Counter[str] = field(default_factory=Counter)

    def note(self, entry: os.DirEntry[str]) -> None:
        """Count an entry of a folder."""
        ending = os.path.splitext(entry.name)[1].lower()
        self.kinds[LINKS if entry.is_symlink() else ending or "no ending"] += 1

    def sentence(self) -> str | None:
        """Return what was passed over, by kind, and what reads it, as the end of a sentence; None: nothing was."""
        if not self.kinds:
            return None
        few = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.kinds.items(), key=lambda each: -each[1]))
        advice = "data.follow_links=true follows links; " * (LINKS in self.kinds)
        advice += "pip install 'kdtool[heic]' reads .heic; " * bool(self.kinds.keys() & HEIF)
        return f"were passed over: {few}{f' ({advice[:-2]})' if advice else ''}"


def leaves(path: Path | str, root: str | None) -> bool:
    """Tell whether a path's real place lies outside the folder ``root``; None: all places are inside."""
    return root is not None and os.path.commonpath([os.path.realpath(path), root]) != root


def walk(folder: str, root: str | None, passed: Passed, above: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield the images below a folder in order.

    Hidden files are passed over, and so are links to folders and links that lead out of ``root``; where that is None,
    all links are followed but those that lead back to a folder ``above``. Only links are resolved: a folder may hold a
    million files.

    Args:
        folder: where.
        root: the data's folder, or None.
        passed: takes what is no image.
        above: the real places of the folders that it lies in.
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
            yield from walk(entry.path, root, passed, above)
        elif is_image(entry) and not (entry.is_symlink() and leaves(entry.path, root)):
            yield entry.path
        else:
            passed.note(entry)


def is_image(entry: os.DirEntry[str] | Path) -> bool:
    """Tell a file that is read as an image by its name's ending."""
    return os.path.splitext(entry.name)[1].lower() in endings() and entry.is_file()


def images_below(folder: Path, follow_links: bool = False) -> Iterator[str]:
    """Yield the paths of all images below a folder, in order."""
    return walk(str(folder), None if follow_links else os.path.realpath(folder), Passed())


def known_endings() -> str:
    """Return the endings of images' names, for messages."""
    return ", ".join(sorted(endings()))


def unlabelled_images(folder: Path, follow_links: bool = False) -> FileImages:
    """Return all images below a folder, whatever its structure.

    Raises:
        InputError: it is missing or holds none.
    """
    if not folder.is_dir():
        raise InputError(f"data.unlabelled={folder}: there is no such folder.")
    paths = tuple(images_below(folder, follow_links))
    if not paths:
        raise InputError(f"data.unlabelled={folder} holds no images ({known_endings()}).")
    return FileImages(paths)


def fingerprint(folder: Path, paths: Iterable[str]) -> str:
    """Digest names, sizes and times: reading every byte of a large folder would cost minutes a run."""
    digest = hashlib.sha256()
    for path in paths:
        stat = os.stat(path)
        digest.update(f"{os.path.relpath(path, folder)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()
