"""Chats and texts that are too many to be held: counted in their shards; what is tested on is read whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from kdtool.errors import InputError
from kdtool.tasks.common import data_report
from kdtool.tasks.common.data_report import DataReport
from kdtool.tasks.common.files.folders import files_of, refuse_large, roles_of
from kdtool.tasks.common.streams.index import counted, refuse_empty
from kdtool.tasks.common.streams.stream import Stream
from kdtool.tasks.language.data.dataset import LanguageData
from kdtool.tasks.language.data.raw import NAMES, Raw, joined
from kdtool.tasks.language.data.read import KINDS, Part, read
from kdtool.tasks.language.data.shards import CHARACTERS, Counted, Passing, Texts
from kdtool.tasks.language.options import Data

LOOKED_AT = 1000
"""Training samples, the first of each shard, that are held: to check teachers on, to find a cut student's parts by, to
draw demonstrations from, and to train a tokenizer on where no network brings one."""


def read_stream(cfg: Data, say: Callable[[str], None] = lambda text: None) -> Raw:
    """Read the splits to measure on, and count the training set's samples.

    Lines that hold no sample are counted with them, and count against ``data.max_bad`` before anything is trained.

    Args:
        cfg: the recipe's section ``data``.
        say: told where they have to be counted.

    Raises:
        InputError: it is no folder, has no split to test on, an empty shard, or too many bad lines; or what is tested
            on is too large to be held.
    """
    path = Path(cfg.name).expanduser()
    if not path.is_dir():
        there = "is one file" if path.is_file() else "is no folder"
        raise InputError(
            f"--data {cfg.name} {there}: a stream (train.steps) is a folder with the shards of a training split (files "
            f"train-001{', '.join(KINDS)}, or a folder train with such files) and a test split beside it."
        )
    by_split = files_of(path, cfg, KINDS)
    wanted = {role: by_split[split] for role, split in roles_of(by_split, cfg, "file").items()}
    files = wanted.pop("train")
    if not wanted:
        raise InputError(
            f"--data {cfg.name}: a stream needs a test split of its own, for nothing can be held out of it. "
            "data.test_split names one."
        )
    refuse_large([file for files in wanted.values() for file in files], cfg)
    shards = Texts(files, cfg.max_length)
    shards.counted = counted(shards.keys, shards.count, Counted.of, say, ["texts", 1, cfg.max_length, CHARACTERS])
    stream = Stream[Passing](shards, tuple(each.length for each in shards.counted))
    refuse_empty(shards.names, stream.lengths)
    begins = [found.sample for found, _ in stream.some(LOOKED_AT) if not found.piece]
    parts = {"train": [Part(cfg.name, begins)]}
    raw = joined(parts | {role: list(map(read, each)) for role, each in wanted.items()}, cfg)
    listed = [bad for each in shards.counted for bad in each.listed]
    unlisted = sum(each.bad for each in shards.counted) - sum(bad.lines for bad in listed)
    raw.faults.note(NAMES["train"], sum(each.whole for each in shards.counted), listed, unlisted)
    raw.stream = stream
    return raw


def report_of(data: LanguageData, unit: str) -> DataReport:
    """Return what a stream and the splits beside it hold.

    Args:
        data: with a stream.
        unit: what its samples are called.
    """
    assert data.stream is not None
    train = data_report.Part(f"a stream of {len(data.stream.lengths):,} shards", (), samples=len(data.stream))
    held = {"validation": data.val if data.val is not data.test else None, "test": data.test}
    parts = {name: data_report.Part("held", (), samples=len(split)) for name, split in held.items() if split}
    return DataReport(data.name, unit, [], {"training": train, **parts}, notes=list(data.notes))


def told_of(stream: Stream[Passing], held: int) -> Iterator[str]:
    """Yield sentences on a stream.

    Args:
        stream: the training set.
        held: how many of its samples are held all the same.
    """
    assert isinstance(stream.shards, Texts)
    assert stream.shards.counted is not None
    whole = sum(each.whole for each in stream.shards.counted)
    longer = f"; long texts count several times, {len(stream):,} in all" if len(stream) > whole else ""
    yield (
        f"the training set is a stream of {whole:,} samples in {len(stream.lengths):,} shards{longer}; what is told of "
        f"training samples is of the {held:,} that its shards begin with"
    )
