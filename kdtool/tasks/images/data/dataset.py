"""Numbered images with labels: what every source of them opens, and what is trained and tested on."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from kdtool.tasks.images.data.reduced import read
from kdtool.tasks.images.data.unreadable import FILE, Pool, Unreadable

if TYPE_CHECKING:
    from PIL.Image import Image

    from kdtool.tasks.common.streams.stream import Stream
    from kdtool.tasks.images.data.decode import Enough

SMALL, MEDIUM, LARGE = 32, 64, 224
"""Default image sizes: images up to SMALL pixels are brought to SMALL, those up to MEDIUM stay, others become LARGE."""


class Images(Protocol):
    """Numbered images; picklable, because workers decode them.

    Those that are decoded from files have ``reader``, ``kdtool.tasks.images.data.decode.READER``.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Image:
        """Return image ``row`` in RGB, or in RGBA where it says how opaque its pixels are.

        Raises:
            InputError: it cannot be read; names the file.
        """
        ...


@dataclass(frozen=True)
class Joined:
    """One source's images, then another's."""

    first: Images
    second: Images

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, row: int) -> Image:
        return self.reduced(row, None)

    def reduced(self, row: int, enough: Enough | None) -> Image:
        """Return image ``row`` as its source's ``reduced`` does, whole where that has none."""
        own = len(self.first)
        return read(self.first, row, enough) if row < own else read(self.second, row - own, enough)

    @property
    def reader(self) -> int | None:
        """The reader of those that are decoded from files, None where none is."""
        return next((found for each in (self.first, self.second) if (found := reader_of(each)) is not None), None)


def reader_of(images: Images) -> int | None:
    """Return the version of what reads images from files, None where they are held as pixels."""
    found: int | None = getattr(images, "reader", None)
    return found


@dataclass
class Split:
    """Some of a source's images.

    Attributes:
        images: of the whole source.
        labels: (N,) int64 class by position, -1 for none.
        rows: (N,) int64 row in ``images`` by position; the number that randomness and caches know a sample by.
        decoded: pixels decoded so far, shared by all splits of the same images.
        extra_fingerprint: digest of images that joined from elsewhere, None without any.
        whole: the split before it was thinned, from which unreadable images are replaced; None: this one.
    """

    images: Images
    labels: np.ndarray
    rows: np.ndarray
    decoded: dict[Any, Any] = field(default_factory=dict, repr=False)
    extra_fingerprint: str | None = None
    whole: Pool | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: np.ndarray) -> Split:
        """Return the samples at these positions."""
        return dataclasses.replace(self, labels=self.labels[positions], rows=self.rows[positions])

    def join(self, extra: Images, fingerprint: str) -> Split:
        """Return the split with images without a label behind it; their rows are past all of the source's own."""
        own, pool = len(self.images), self.pool()
        labels, rows = np.full(len(extra), -1, dtype=np.int64), np.arange(own, own + len(extra), dtype=np.int64)
        images = Joined(self.images, extra)
        return Split(
            images,
            np.concatenate([self.labels, labels]),
            np.concatenate([self.rows, rows]),
            extra_fingerprint=fingerprint,
            whole=dataclasses.replace(
                pool,
                labels=np.concatenate([pool.labels, labels]),
                rows=np.concatenate([pool.rows, rows]),
                images=images,
            ),
        )

    def digest(self) -> str:
        """Return the sha256 of the rows, in order."""
        return hashlib.sha256(self.rows.tobytes()).hexdigest()

    def pool(self) -> Pool:
        """Return the samples that stand in for those of this split that cannot be read."""
        return self.whole or Pool("", self.rows, self.labels, Unreadable(0.0))


@dataclass
class Source:
    """What one kind of source finds: splits as they are stored, before any is held out.

    Attributes:
        train: None where there is none, which only networks that are measured can do without.
        origins: where each split is from, by "train", "test" and "val".
        notes: sentences on how it was read.
        remarks: sentences on what may be a mistake.
        sets: (S, K) float32, 0 or 1, where an image has several classes: labels then are numbers of such sets.
    """

    class_names: list[str]
    train: Split | None
    test: Split | None
    val: Split | None
    fingerprint: str
    stream: Stream[Any] | None = None
    origins: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    remarks: Sequence[str] = ()
    sets: np.ndarray | None = None


@dataclass
class DataSet:
    """Images ready to be trained and tested on.

    Attributes:
        class_names: K names in the order of the labels.
        val: the source's own, or held out of train; None where ``data.val_fraction`` is 0; the test split where
            ``data.watch_test`` is on.
        native_size: (height, width), medians of a sample of the training images.
        grey: all channels of that sample are equal.
        fingerprint: digest of what decides images, labels and splits.
        stream: the training set, where it is streamed; ``train`` then is a small part of it.
        unreadable: the images that could not be read so far.
        embeds: nothing is learnt from labels; networks give embeddings.
        own_test: the source has a split to test on; else one was drawn here.
        remarks: sentences on what may be a mistake.
        origins: where each split is from, by "training", "validation" and "test".
        sets: as for ``Source``.
    """

    name: str
    class_names: list[str]
    train: Split
    val: Split | None
    test: Split
    native_size: tuple[int, int]
    grey: bool
    fingerprint: str
    stream: Stream[Any] | None = None
    unreadable: Unreadable = field(default_factory=lambda: Unreadable(0.0))
    notes: Sequence[str] = ()
    embeds: bool = False
    own_test: bool = True
    remarks: Sequence[str] = ()
    origins: Mapping[str, str] = field(default_factory=dict)
    sets: np.ndarray | None = None

    @property
    def label_count(self) -> int:
        """How many labels there are: of sets of classes where images have several, else of classes."""
        return len(self.class_names) if self.sets is None else len(self.sets)

    @property
    def classes(self) -> int:
        """How many classes networks give: K, or 0 where they give embeddings."""
        return 0 if self.embeds else len(self.class_names)

    def list_faults(self, folder: Path) -> None:
        """List in a run's folder, from now on, the images that cannot be read."""
        self.unreadable.write_to(folder / FILE)

    def faults(self) -> str | None:
        """Return a sentence on the images that could not be read so far, None without any."""
        count = len(self.unreadable.found)
        return (
            f"{count} images could not be read, and others of their class stood in for them: see {self.unreadable.path}"
            if count
            else None
        )
