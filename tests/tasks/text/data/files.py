"""Files of texts for tests."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROWS = [(f"text number {n} of some", str(n % 2)) for n in range(40)]
"""Forty texts of two classes, "0" and "1"."""


def write(path: Path, rows: Sequence[Sequence[Any]] = ROWS, columns: Sequence[str] = ("text", "label")) -> Path:
    """Write a table as what its name ends with, and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tsv":
        path.write_text("".join("\t".join(map(str, row)) + "\n" for row in [columns, *rows]), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([columns, *rows])
    elif path.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        values = list(zip(*rows, strict=True)) or [[] for _ in columns]
        pq.write_table(pa.table({name: list(some) for name, some in zip(columns, values, strict=True)}), path)
    return path
