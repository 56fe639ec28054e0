"""Looking at a data set's images before anything is trained: which cannot be read, and which are there twice.

Equal images have equal pixels, whatever their files are. Nearly equal ones, such as copies that were scaled or
compressed again, are found by their thumbnails of 16 x 16 pixels: where those correlate more than 0.998 in all three
channels together. Photos of one scene taken one after another mostly do not.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from kdtool.errors import InputError
from kdtool.tasks.common.data_report import DataReport, report_of
from kdtool.tasks.common.overlaps import overlaps
from kdtool.tasks.images.data.dataset import DataSet, Split
from kdtool.tasks.images.data.decode import with_channels
from kdtool.tasks.images.data.unreadable import THREADS
from kdtool.tasks.images.options import Data

SIDE = 16
"""Pixels a side of the thumbnails."""

ALIKE = 0.998
"""Correlation from which thumbnails are of nearly equal images."""

PLAIN, SMALL = 4.0, 32
"""Images of less contrast (standard deviation, of 255), or with a shorter side, are not compared: many look alike."""

MOST_PAIRS = 400_000_000
"""Pairs of images that are compared at most."""

CHUNK = 64


@dataclass
class Looked:
    """What was seen of a split.

    Attributes:
        total: its images.
        positions: of those that were read.
        digests: of their pixels.
        thumbnails: (SIDE * SIDE * 3,) uint8 of each.
        comparable: whether its thumbnail tells it from others.
        why: by position, why an image cannot be read.
    """

    total: int
    positions: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    thumbnails: list[np.ndarray] = field(default_factory=list)
    comparable: list[bool] = field(default_factory=list)
    why: dict[int, str] = field(default_factory=dict)


def look(data: DataSet, cfg: Data) -> DataReport:
    """Return what a data set holds.

    Args:
        data: where.
        cfg: the recipe's section ``data``; ``look`` is the seconds for looking at its images.

    Raises:
        InputError: more images cannot be read than ``data.max_bad`` allows; all that were found are named.
    """
    report = report_of(data, "images", data.origins)
    report.notes += data.notes
    report.warnings += data.remarks
    splits: dict[str, Split] = {"training": data.train, "validation": data.val, "test": data.test}  # type: ignore[dict-item]
    splits = {name: split for name, split in splits.items() if name in report.parts}
    if not cfg.look or data.stream is not None:
        return report
    began = time.monotonic()
    looked = _scan(splits, cfg.look)
    total, seen = sum(map(len, splits.values())), sum(len(each.positions) + len(each.why) for each in looked.values())
    spent = time.monotonic() - began
    report.seconds = THREADS * spent / max(seen, 1) / max(cfg.workers, 1)
    if seen < total:
        report.notes.append(
            f"looked at {seen:,} of {total:,} images in {spent:.0f} s for what is unreadable or there twice; data.look "
            "is the seconds for that"
        )
    for name, each in looked.items():
        report.unreadable += [each.why[at] for at in sorted(each.why)]
        data.unreadable.refuse(name, each.total, [each.why[at] for at in sorted(each.why)])
    if report.unreadable:
        count = len(report.unreadable)
        report.warnings.append(
            f"{count:,} image{'s' * (count > 1)} cannot be read, and others of their class stand in for them: "
            f"{'; '.join(report.unreadable[:10])}{'; ...' if count > 10 else ''}"
        )
    report.warnings += overlaps({name: each.digests for name, each in looked.items()}, "images")
    report.warnings += _several_classes(splits, looked)
    report.warnings += _nearly_equal(splits, looked)
    return report


def _scan(splits: Mapping[str, Split], seconds: float) -> dict[str, Looked]:
    """Read images of all splits in a random order, always the same, until the time is over."""
    found = {name: Looked(len(split)) for name, split in splits.items()}
    every = [(name, position) for name, split in splits.items() for position in range(len(split))]
    order = np.random.Generator(np.random.Philox(0)).permutation(len(every))
    end = time.monotonic() + seconds

    def read(at: int) -> tuple[str, int, tuple[bytes, np.ndarray, bool] | str]:
        name, position = every[at]
        split = splits[name]
        try:
            return name, position, _seen(_glance(split, int(split.rows[position])))
        except InputError as error:
            return name, position, str(error).removesuffix(": mend or remove it.")

    with ThreadPoolExecutor(THREADS) as threads:
        for chunk in _chunks(order.tolist()):
            for name, position, seen in threads.map(read, chunk):
                looked = found[name]
                if isinstance(seen, str):
                    looked.why[position] = seen
                    continue
                looked.positions.append(position)
                for some, value in zip((looked.digests, looked.thumbnails, looked.comparable), seen, strict=True):
                    some.append(value)  # type: ignore[attr-defined]
            if time.monotonic() > end:
                break
    return found


def _chunks(order: list[int]) -> Iterator[list[int]]:
    rest = iter(order)
    while chunk := list(itertools.islice(rest, CHUNK)):
        yield chunk


def _glance(split: Split, row: int) -> Image.Image:
    """Return an image, smaller where its decoder is faster so."""
    glance = getattr(split.images, "glance", split.images.__getitem__)
    image: Image.Image = glance(row)
    return image


def _seen(image: Image.Image) -> tuple[bytes, np.ndarray, bool]:
    image = with_channels(image, 3)
    digest = hashlib.blake2b(f"{image.size}".encode() + image.tobytes(), digest_size=16).digest()
    thumbnail = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX)).reshape(-1)
    return digest, thumbnail, min(image.size) >= SMALL and float(thumbnail.std()) >= PLAIN


def _name(split: Split, position: int) -> str:
    paths, row = getattr(split.images, "paths", None), int(split.rows[position])
    return str(paths[row]) if paths is not None else f"image {row}"


def _several_classes(splits: Mapping[str, Split], looked: Mapping[str, Looked]) -> list[str]:
    """Return a sentence where equal training images have different classes."""
    split, each = splits["training"], looked["training"]
    classes: dict[bytes, list[int]] = {}
    for digest, position in zip(each.digests, each.positions, strict=True):
        classes.setdefault(digest, []).append(position)
    clashes = [some for some in classes.values() if len({int(split.labels[at]) for at in some} - {-1}) > 1]
    if not clashes:
        return []
    pair = " and ".join(_name(split, at) for at in sorted(clashes[0])[:2])
    stand = "training image stands" if len(clashes) == 1 else "training images stand"
    return [f"{len(clashes):,} {stand} in several classes, such as {pair}"]


def _nearly_equal(splits: Mapping[str, Split], looked: Mapping[str, Looked]) -> list[str]:
    """Return a sentence for each split with images that nearly equal training images, and are not equal to any."""
    train, equal = looked["training"], set(looked["training"].digests)
    theirs = [at for at, comparable in enumerate(train.comparable) if comparable]
    found: list[str] = []
    for name, each in looked.items():
        own = [at for at, good in enumerate(each.comparable) if good and each.digests[at] not in equal]
        if name == "training" or not own or not theirs or len(own) * len(theirs) > MOST_PAIRS:
            continue
        known = _standardised([train.thumbnails[at] for at in theirs])
        alike, best = 0, (0.0, 0, 0)
        for chunk in _chunks(own):
            correlation = _standardised([each.thumbnails[at] for at in chunk]) @ known.T
            nearest = correlation.max(1)
            alike += int((nearest > ALIKE).sum())
            at = int(nearest.argmax())
            best = max(best, (float(nearest[at]), chunk[at], theirs[int(correlation[at].argmax())]))
        if alike:
            pair = f"{_name(splits[name], each.positions[best[1]])} and " + _name(
                splits["training"], train.positions[best[2]]
            )
            verb = "equals a training image" if alike == 1 else "equal training images"
            found.append(f"{alike:,} of {each.total:,} {name} images nearly {verb}, such as {pair}")
    return found


def _standardised(thumbnails: list[np.ndarray]) -> np.ndarray:
    values = np.stack(thumbnails).astype(np.float32)
    values -= values.mean(1, keepdims=True)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return values
