"""Where images come from: one kind of source a file, all of them as splits of numbered images with labels."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from kdtool.errors import InputError, did_you_mean
from kdtool.tasks.common.splits import pick_per_class, stratified
from kdtool.tasks.images.data.unreadable import FILE, Pool, Unreadable
from kdtool.tasks.images.options import Data

if TYPE_CHECKING:
    from PIL.Image import Image

    from kdtool.tasks.images.data.stream import Stream

SMALL, MEDIUM, LARGE = 32, 64, 224
"""Default image sizes: images up to SMALL pixels are brought to SMALL, those up to MEDIUM stay, others become LARGE."""

LOOKED_AT = 64
"""How many images, spread over the training split, decide its native size and whether it is grey."""


class Images(Protocol):
    """Numbered images; picklable, because workers decode them."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Image:
        """Return image ``row`` in RGB.

        Raises:
            InputError: it cannot be read; names the file.
        """
        ...


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

    def digest(self) -> str:
        """Return the sha256 of the rows, in order."""
        return hashlib.sha256(self.rows.tobytes()).hexdigest()

    def pool(self) -> Pool:
        """Return the samples that stand in for those of this split that cannot be read."""
        return self.whole or Pool("", self.rows, self.labels, Unreadable(0.0))


@dataclass
class Source:
    """What one kind of source finds: splits as they are stored, before any is held out."""

    class_names: list[str]
    train: Split
    test: Split | None
    val: Split | None
    fingerprint: str
    stream: Stream | None = None


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
    """

    name: str
    class_names: list[str]
    train: Split
    val: Split | None
    test: Split
    native_size: tuple[int, int]
    grey: bool
    fingerprint: str
    stream: Stream | None = None
    unreadable: Unreadable = field(default_factory=lambda: Unreadable(0.0))

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


def open_data(cfg: Data, stream: bool = False) -> DataSet:
    """Open what ``data.name`` names and hold out what the recipe asks for.

    Args:
        cfg: the recipe's section ``data``.
        stream: do not hold the training set in memory, but read it from its shards again and again.

    Raises:
        InputError: it is not there, is empty, has one class only, or needs a package that is missing.
    """
    source = _open(cfg) if not stream else import_module("kdtool.tasks.images.data.stream").open_stream(cfg)
    if len(source.class_names) < 2:
        raise InputError(f"--data {cfg.name}: one class only ({source.class_names}); two or more are needed.")
    train, val, test = source.train, source.val, source.test
    if test is not None and cfg.test_split == "auto" and (test.labels < 0).all() and val is not None:
        test = None  # published without its labels
    if test is None and val is not None:
        test, val = val, None
    if test is None:
        train, test = _hold_out(train, cfg.test_fraction, cfg, "test")
    if cfg.watch_test:
        val = test
    elif cfg.val_fraction == 0:
        val = None  # the last epoch is the result, whatever the source offers to choose by
    elif val is None and source.stream is None:
        train, val = _hold_out(train, cfg.val_fraction, cfg, "validation")
    unreadable = Unreadable(cfg.max_bad)
    for name, split in (("training", train), ("test", test), ("validation", val)):
        if split is not None:
            split.whole = Pool(name, split.rows, split.labels, unreadable)
        if split is not None and len(split) == 0:
            raise InputError(f"--data {cfg.name}: the {name} split is empty.")
        if split is not None and split is not train and (split.labels < 0).any():
            raise InputError(
                f"--data {cfg.name}: images of the {name} split have no label, so nothing can be measured on them. "
                "data.test_split names another split."
            )
    native, grey = _look_at(train)
    val_fraction = 0.0 if cfg.watch_test else cfg.val_fraction
    held_out = [val_fraction, cfg.test_fraction, cfg.split_seed, cfg.train_split, cfg.test_split]
    decides = [source.fingerprint, *held_out]
    digest = hashlib.sha256(json.dumps(decides).encode()).hexdigest()
    return DataSet(cfg.name, source.class_names, train, val, test, native, grey, digest, source.stream, unreadable)


def _open(cfg: Data) -> Source:
    name = cfg.name
    if name == "digits":
        from kdtool.tasks.images.data.digits import open_digits

        return open_digits()
    path = Path(name).expanduser()
    if path.is_dir():
        kind = "parquet" if any(path.glob("*.parquet")) or any(path.glob("*/*.parquet")) else "folder"
        found: Source = import_module(f"kdtool.tasks.images.data.{kind}").open_source(path, cfg)
        return found
    if path.is_file():
        raise InputError(f"--data {name} is a file; give a folder of images (one folder a class) or of parquet files.")
    prefixes = ("torch/", "hfds/", "hfids/", "wds/", "tfds/")
    if name.startswith(prefixes):
        from kdtool.tasks.images.data.timm_names import open_timm

        return open_timm(cfg)
    near = "Did you mean 'digits'? " if difflib.get_close_matches(name, ["digits"]) else ""
    raise InputError(
        f"--data {name}: there is no such folder. {near}Valid: digits, a folder of images or parquet files, or a "
        f"name that timm knows ({', '.join(prefix + '…' for prefix in prefixes)})."
    )


def _hold_out(split: Split, fraction: float, cfg: Data, what: str) -> tuple[Split, Split]:
    keep, held = stratified(split.labels, split.rows, fraction, cfg.split_seed, what)
    return split.take(keep), split.take(held)


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
    keep = np.ones(len(train), dtype=bool)
    for name in cfg.exclude_classes:
        keep &= train.labels != _class_number(str(name), class_names)
    if not keep.any():
        raise InputError("data.exclude_classes leaves no training image.")
    thinned = train.take(np.flatnonzero(keep))
    if cfg.labels_per_class is not None:
        chosen = pick_per_class(thinned.labels, thinned.rows, cfg.labels_per_class, cfg.split_seed)
        thinned = thinned.take(chosen)
    if cfg.unlabelled is None:
        return thinned
    from kdtool.tasks.images.data.folder import fingerprint, unlabelled_images

    folder = Path(cfg.unlabelled).expanduser()
    extra = unlabelled_images(folder, cfg.follow_links)
    return _join(thinned, extra, fingerprint(folder, extra.paths))


def _class_number(name: str, class_names: Sequence[str]) -> int:
    if name in class_names:
        return list(class_names).index(name)
    if name.isdigit() and int(name) < len(class_names):
        return int(name)
    raise InputError(f"data.exclude_classes: there is no class {name!r}. {did_you_mean(name, class_names)}")


def _join(train: Split, extra: Images, extra_fingerprint: str) -> Split:
    own, pool = len(train.images), train.pool()
    labels, rows = np.full(len(extra), -1, dtype=np.int64), np.arange(own, own + len(extra), dtype=np.int64)
    return Split(
        Joined(train.images, extra),
        np.concatenate([train.labels, labels]),
        np.concatenate([train.rows, rows]),
        extra_fingerprint=extra_fingerprint,
        whole=dataclasses.replace(
            pool, labels=np.concatenate([pool.labels, labels]), rows=np.concatenate([pool.rows, rows])
        ),
    )


@dataclass(frozen=True)
class Joined:
    """One source's images, then another's."""

    first: Images
    second: Images

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, row: int) -> Image:
        own = len(self.first)
        return self.first[row] if row < own else self.second[row - own]
