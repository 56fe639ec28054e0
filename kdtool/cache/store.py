"""A cache's folder: ``manifest.json`` and, below a folder a part, one ``.npy`` file a shard.

A shard is a block of samples in one view. Its name ends in a digest of its place and its bytes, and it appears under
that name only when it is whole; so a torn, changed or misplaced one is found out by reading it, and an interrupted
build goes on with the shards that lack.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from kdtool.cache.identity import differences, key_of
from kdtool.cache.part import Part
from kdtool.errors import RunError
from kdtool.system import strict_json
from kdtool.system.disk import write_whole
from kdtool.system.home import home

MANIFEST = "manifest.json"
_NAME = re.compile(r"view(\d+)-block(\d+)-([0-9a-f]{16})\.npy")


def outputs_folder() -> Path:
    """Return the folder below which all caches lie."""
    return home() / "outputs"


class Place(NamedTuple):
    """A block of samples in one view."""

    view: int
    block: int


class Damaged(Exception):
    """A shard, or a manifest, is not what was written."""


@dataclass
class Manifest:
    """What a cache holds.

    Attributes:
        decides: what its outputs follow from.
        parts: the outputs it holds, by name.
        samples: N.
        shard_rows: samples in a shard (fewer in the last of a view).
        rows: rows of the samples of each block; None: a sample is one row.
        about: for people: the teacher, the data set.
    """

    decides: dict[str, Any]
    parts: dict[str, Part]
    samples: int
    shard_rows: int
    about: dict[str, str] = field(default_factory=dict)
    rows: list[int] | None = None

    def places(self, part: Part) -> list[Place]:
        """Return where a part has shards."""
        return [Place(view, block) for view in range(part.views) for block in range(self.blocks)]

    @property
    def ends(self) -> np.ndarray:
        """(blocks,) int64: up to which row each block goes."""
        sizes = self.rows or [len(self.samples_of(Place(0, block))) for block in range(self.blocks)]
        return np.cumsum(sizes, dtype=np.int64)

    @property
    def blocks(self) -> int:
        """How many shards a view has."""
        return -(-self.samples // self.shard_rows)

    def count(self, place: Place) -> int:
        """Return how many rows a shard holds."""
        return len(self.samples_of(place)) if self.rows is None else self.rows[place.block]

    def samples_of(self, place: Place) -> range:
        """Return the positions in the training set that a shard holds."""
        return range(place.block * self.shard_rows, min((place.block + 1) * self.shard_rows, self.samples))

    def write(self, folder: Path) -> None:
        plain = {**vars(self), "parts": [part.to_dict() for part in self.parts.values()]}
        write_whole(folder / MANIFEST, strict_json.dumps(plain, indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Return a folder's manifest.

        Raises:
            Damaged: it is not there or cannot be read.
        """
        try:
            plain = json.loads((folder / MANIFEST).read_text())
            parts = {each["name"]: Part(**each) for each in plain.pop("parts")}
            found = cls(**plain, parts=parts)
            if not (found.parts and found.samples >= 1 and found.shard_rows >= 1 and dict(found.decides)) or (
                found.rows is not None and len(found.rows) != found.blocks
            ):
                raise ValueError("a number is out of range")
            _ = [part.row for part in parts.values()], key_of(found.decides)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise Damaged(f"{folder / MANIFEST} cannot be read ({type(error).__name__}: {error})") from error
        return found


class Store:
    """The shards in a folder.

    Args:
        folder: the cache's.
        manifest: what it holds, or is to hold.
    """

    def __init__(self, folder: Path, manifest: Manifest):
        self.folder, self.manifest = folder, manifest
        self.key = key_of(manifest.decides)

    def write(self, part: Part, place: Place, rows: np.ndarray) -> None:
        """Write a shard aside, flush and rename it.

        Raises:
            RunError: the disk is full, or cannot be written to.
        """
        buffer = io.BytesIO()
        np.save(buffer, rows, allow_pickle=False)
        content = buffer.getbuffer()
        home = self._home(part)
        name = f"view{place.view:04d}-block{place.block:06d}-{self._digest(part, place, content)}.npy"
        aside = home / f".{name}.{os.getpid()}.tmp"
        try:
            home.mkdir(parents=True, exist_ok=True)
            with aside.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            aside.replace(home / name)
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise RunError(
                f"cannot write the teacher cache {self.folder}: {error.strerror}. The shards that are finished stay; "
                "make room and run the same command again, or go on without it (cache.mode=off)."
            ) from error

    def found(self, part: Part) -> dict[Place, Path]:
        """Return the shards of a part that are there, whole by their names."""
        shards: dict[Place, Path] = {}
        for path in sorted(self._home(part).glob("view*.npy")):
            match = _NAME.fullmatch(path.name)
            if match:
                shards[Place(int(match[1]), int(match[2]))] = path
        return shards

    def missing(self, parts: Iterable[Part] | None = None) -> dict[Place, list[Part]]:
        """Return the places where a shard of these parts (default: of all) lacks, each with the parts that lack."""
        lacking: dict[Place, list[Part]] = {}
        for part in self.manifest.parts.values() if parts is None else parts:
            there = self.found(part)
            for place in self.manifest.places(part):
                if place not in there:
                    lacking.setdefault(place, []).append(part)
        return dict(sorted(lacking.items()))

    def open(self, part: Part, place: Place, path: Path, whole: bool) -> np.ndarray:
        """Return a shard's rows, mapped, or read ``whole`` with its checksum verified.

        Raises:
            Damaged: it is not what was written.
        """
        try:
            rows: np.ndarray
            if whole:
                content = path.read_bytes()
                if self._digest(part, place, content) != _digest_in(path):
                    raise ValueError("its checksum is another")
                rows = np.load(io.BytesIO(content), allow_pickle=False)
                end = len(content)
            else:
                rows = np.load(path, mmap_mode="r", allow_pickle=False)
                end = getattr(rows, "offset", 0) + rows.nbytes
            if rows.dtype != part.row or rows.shape != (self.manifest.count(place),):
                raise ValueError(f"it holds {rows.shape} rows of {rows.dtype}")
            if end != path.stat().st_size:
                raise ValueError("its size is another")
        except (OSError, ValueError, EOFError, SyntaxError) as error:
            raise Damaged(f"{path.relative_to(self.folder.parent)} is damaged: {error}") from error
        return rows

    def damaged(self, whole: bool = True, parts: Iterable[Part] | None = None) -> Iterator[tuple[Path, str]]:
        """Yield each shard of these parts (default: of all) that is not what was written, and why.

        ``whole`` verifies checksums, not only sizes.
        """
        for part in self.manifest.parts.values() if parts is None else parts:
            places = set(self.manifest.places(part))
            for place, path in self.found(part).items():
                if place not in places:
                    continue
                try:
                    self.open(part, place, path, whole)
                except Damaged as error:
                    yield path, str(error)

    def sweep(self) -> None:
        """Remove what a build that was killed left half written."""
        for path in self.folder.glob("*/.view*.tmp"):
            path.unlink(missing_ok=True)

    def _home(self, part: Part) -> Path:
        return self.folder / quote(part.name, safe=" ")

    def _digest(self, part: Part, place: Place, content: Any) -> str:
        total = hashlib.sha256(f"{self.key}|{part.name}|{part.row}|{tuple(place)}|".encode())
        total.update(content)
        return total.hexdigest()[:16]


def _digest_in(path: Path) -> str:
    match = _NAME.fullmatch(path.name)
    return match[3] if match else ""


def problems(folder: Path, wanted: Manifest) -> list[str]:
    """Return why a folder cannot serve what is wanted; an empty list where it can, as far as its manifest tells."""
    try:
        have = Manifest.read(folder)
    except Damaged as error:
        return [str(error)]
    found = differences(have.decides, wanted.decides)
    if have.samples != wanted.samples:
        found.append(f"samples is {have.samples}, wanted {wanted.samples}")
    for name, part in wanted.parts.items():
        held = have.parts.get(name)
        if held is None:
            found.append(f"it does not hold {name}")
        elif held.row != part.row:
            found.append(f"its {name} are kept as {held.row}, wanted {part.row}")
        elif held.views < part.views:
            found.append(f"it holds {held.views} views of {name}, wanted data.views={part.views}")
    return found


def read_all(root: Path) -> Mapping[Path, Manifest | None]:
    """Return the caches below a folder, each with its manifest, None where that cannot be read."""
    found: dict[Path, Manifest | None] = {}
    for folder in sorted(path for path in root.glob("*") if path.is_dir()):
        try:
            found[folder] = Manifest.read(folder)
        except Damaged:
            found[folder] = None
    return found
