"""Tiny corpora in shards of several kinds."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.tasks.language.small import chats

LENGTHS = (17, 13, 20)
"""Samples in the shards of a training split: .jsonl, .jsonl.gz and .parquet."""


def lines_of(folder: Path, count: int) -> list[str]:
    """Return chats, a line of JSON each."""
    folder.mkdir(parents=True, exist_ok=True)
    return chats(folder / "all", count).read_text().splitlines()


def write(path: Path, lines: Sequence[str]) -> Path:
    """Write lines of JSON as a file of the kind that its name says."""
    text = "".join(f"{line}\n" for line in lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    elif path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=6)
    else:
        path.write_text(text)
    return path


def corpus(folder: Path, lengths: Sequence[int] = LENGTHS, test: int = 10) -> Path:
    """Write a training split in three shards, and a test split, and return their folder."""
    lines, first = lines_of(folder.parent / f"{folder.name}-lines", sum(lengths) + test), 0
    for number, (count, kind) in enumerate(zip(lengths, (".jsonl", ".jsonl.gz", ".parquet"), strict=True), 1):
        write(folder / f"train-{number:03}{kind}", lines[first : first + count])
        first += count
    write(folder / "test.jsonl", lines[first:])
    return folder
