"""A training set that is too large to be held, or to be read in any order: its shards, numbered sample by sample."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from kdtool.errors import InputError
from kdtool.system.disk import write_whole
from kdtool.system.home import home
from kdtool.system.locks import waiting_lock
from kdtool.tasks.images.data.dataset import Source, Split
from kdtool.tasks.images.data.shards import HubShards, Sample, Shards, TarShards
from kdtool.tasks.images.data.timm_names import Budget, KeptImages, refusal
from kdtool.tasks.images.data.timm_splits import roles, shard_files
from kdtool.tasks.images.options import Data

READERS = 8
"""Threads that read shards' headers to count their samples."""

LOOKED_AT = 2000
"""Training samples that are kept in memory, to check teachers on."""


@dataclass(frozen=True)
class Stream:
    """A split in shards whose samples are counted. A sample's number is its place in all shards, one after another.

    Attributes:
        shards: what is read.
        lengths: samples in each.
    """

    shards: Shards
    lengths: tuple[int, ...]

    @cached_property
    def first(self) -> np.ndarray:
        """(shards,) int64 number of each shard's first sample."""
        return np.concatenate([[0], np.cumsum(self.lengths)[:-1]]).astype(np.int64)

    def __len__(self) -> int:
        return sum(self.lengths)

    def some(self, count: int) -> Split:
        """Return about ``count`` samples, the first of each shard, in memory."""
        share = -(-count // len(self.lengths))
        found = [
            (sample, f"{at} of {name}")
            for shard, name in enumerate(self.shards.names)
            for at, sample in zip(range(share), self.shards.read(shard, 0), strict=False)
        ]
        return _split(found[:count])


def open_stream(cfg: Data, say: Callable[[str], None] = lambda text: None) -> Source:
    """Open a data set whose training split is streamed; what it is tested on is read into memory.

    Raises:
        InputError: it is not there, has no test split, or options that need all labels are on.
    """
    _refuse_options(cfg)
    try:
        found = roles(cfg)
        shards = {role: _open(cfg, name) for role, name in found.items()}
    except Exception as error:  # each library fails in its own way
        raise refusal(cfg, cfg.train_split, error) from error
    if set(found) == {"train"}:
        raise InputError(
            f"--data {cfg.name}: a stream needs a test split of its own, for nothing can be held out of it. "
            "data.test_split names one."
        )
    lengths, top = _index(shards["train"], say)
    stream, budget = Stream(shards["train"], lengths), Budget(cfg)
    kept = {role: _whole(each, budget) for role, each in shards.items() if role != "train"}
    top = max([top, *(int(split.labels.max(initial=-1)) for split in kept.values())])
    names = stream.shards.class_names or [str(number) for number in range(top + 1)]
    if top >= len(names):
        raise InputError(f"--data {cfg.name}: a sample has class {top}, and there are {len(names)} class names.")
    digest = hashlib.sha256(json.dumps([each.keys for each in shards.values()]).encode()).hexdigest()
    return Source(names, stream.some(LOOKED_AT), kept.get("test"), kept.get("val"), digest, stream)


def _refuse_options(cfg: Data) -> None:
    for key, off in (
        ("labels_per_class", None), ("exclude_classes", []), ("unlabelled", None), ("sampler", "random"),
    ):  # fmt: skip
        if getattr(cfg, key) != off:
            raise InputError(
                f"data.{key}={getattr(cfg, key)}: of a stream (train.steps) no sample is known before it is read, so "
                "none can be chosen. Leave it out, or use a data set that is read by number (a folder, hfds/…)."
            )


def _open(cfg: Data, split: str) -> Shards:
    if cfg.name.startswith("hfids/"):
        return HubShards(cfg.name.partition("/")[2], split, cfg.root)
    return TarShards(shard_files(cfg, split))


def _whole(shards: Shards, budget: Budget) -> Split:
    found = []
    for shard, name in enumerate(shards.names):
        for at, sample in enumerate(shards.read(shard, 0)):
            budget.take(len(sample[0]))
            found.append((sample, f"{at} of {name}"))
    return _split(found)


def _split(samples: list[tuple[Sample, str]]) -> Split:
    images = KeptImages(tuple(data for (data, _), _ in samples), tuple(origin for _, origin in samples))
    labels = np.array([label for (_, label), _ in samples], dtype=np.int64)
    return Split(images, labels, np.arange(len(samples), dtype=np.int64))


# --- counting ---------------------------------------------------------------------------------------------------------


def _index(shards: Shards, say: Callable[[str], None]) -> tuple[tuple[int, ...], int]:
    """Return the samples in each shard and the highest class, counted once and kept."""
    key = hashlib.sha256(json.dumps(shards.keys).encode()).hexdigest()[:16]
    file = home() / "streams" / f"{key}.json"
    with waiting_lock(file.with_suffix(".lock"), on_wait=lambda: None, check=lambda: None):
        found = _kept(file, len(shards.keys))
        if found is None:
            say(f"counting the samples of {len(shards.keys)} shards; it is done once")
            with ThreadPoolExecutor(READERS) as pool:
                counted = list(pool.map(lambda shard: _count(shards, shard), range(len(shards.keys))))
            found = tuple(count for count, _ in counted), max(top for _, top in counted)
            write_whole(file, json.dumps({"lengths": found[0], "top": found[1]}))
    empty = [shards.names[number] for number, length in enumerate(found[0]) if length == 0]
    if empty:
        raise InputError(f"the shard {empty[0]} holds no samples: remove it.")
    return found


def _kept(file: Path, count: int) -> tuple[tuple[int, ...], int] | None:
    try:
        plain = json.loads(file.read_text())
        lengths = tuple(int(length) for length in plain["lengths"])
        return (lengths, int(plain["top"])) if len(lengths) == count else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _count(shards: Shards, shard: int) -> tuple[int, int]:
    count, top = 0, -1
    for label in shards.labels(shard):
        count, top = count + 1, max(top, label)
    return count, top
