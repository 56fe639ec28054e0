"""A training set that is too large to be held, or to be read in any order: its shards, numbered sample by sample."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np

from kdtool.errors import InputError
from kdtool.tasks.common.streams.index import counted, refuse_empty
from kdtool.tasks.common.streams.stream import Stream
from kdtool.tasks.images.data.dataset import Source, Split
from kdtool.tasks.images.data.shards import HubShards, Sample, Shards, TarShards
from kdtool.tasks.images.data.timm_names import Budget, KeptImages, refusal
from kdtool.tasks.images.data.timm_splits import roles, shard_files
from kdtool.tasks.images.options import Data

LOOKED_AT = 2000
"""Training samples that are kept in memory, to check teachers on."""


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
    stream, budget = Stream[Sample](shards["train"], lengths), Budget(cfg)
    kept = {role: _whole(each, budget) for role, each in shards.items() if role != "train"}
    top = max([top, *(int(split.labels.max(initial=-1)) for split in kept.values())])
    names = shards["train"].class_names or [str(number) for number in range(top + 1)]
    if top >= len(names):
        raise InputError(f"--data {cfg.name}: a sample has class {top}, and there are {len(names)} class names.")
    digest = hashlib.sha256(json.dumps([each.keys for each in shards.values()]).encode()).hexdigest()
    return Source(names, _split(stream.some(LOOKED_AT)), kept.get("test"), kept.get("val"), digest, stream)


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
    found = counted(shards.keys, lambda shard: _count(shards, shard), _pair, say)
    lengths = tuple(length for length, _ in found)
    refuse_empty(shards.names, lengths)
    return lengths, max(top for _, top in found)


def _pair(plain: Any) -> tuple[int, int]:
    length, top = plain
    return int(length), int(top)


def _count(shards: Shards, shard: int) -> tuple[int, int]:
    count, top = 0, -1
    for label in shards.labels(shard):
        count, top = count + 1, max(top, label)
    return count, top
