"""Predictions as a table in a file, .csv or .parquet."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from kdtool.errors import InputError
from kdtool.system.disk import write_whole

CSV = ".csv"

ENDINGS = (CSV, ".parquet")
"""Of the names of files that predictions are written to."""


def check_predictions(path: Path) -> None:
    """Refuse a place that cannot be written, before anything is computed.

    Raises:
        InputError: its name has another ending, its folder is not there, or pyarrow is missing.
    """
    if path.suffix.lower() not in ENDINGS:
        raise InputError(f"--predictions {path}: its name tells the format. Valid endings: {', '.join(ENDINGS)}.")
    if path.suffix.lower() != CSV:
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise InputError(
                "--predictions needs pyarrow: pip install 'kdtool[parquet]'. A name that ends in .csv does not."
            ) from error
    if not path.parent.is_dir() or path.is_dir():
        raise InputError(f"--predictions {path}: name a file in a folder that exists.")


def columns_of(logits: Tensor, labels: Tensor, names: Sequence[str]) -> dict[str, list[Any]]:
    """Return label, predicted class, its confidence and all logits of each sample.

    Args:
        logits: (N, K).
        labels: (N,) int64 in the order of the logits' classes.
        names: of the K classes.
    """
    confidence, predicted = logits.double().softmax(1).max(1)
    return {
        "label": labels.tolist(),
        "class": [names[i] for i in labels.tolist()],
        "predicted": predicted.tolist(),
        "predicted_class": [names[i] for i in predicted.tolist()],
        "confidence": confidence.tolist(),
        "correct": predicted.eq(labels).tolist(),
        "logits": logits.tolist(),
    }


def write_predictions(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write columns of equal length; the file is written aside and renamed.

    In a .csv file lists are JSON, and what is None is an empty cell.
    """
    if path.suffix.lower() == CSV:
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            table.writerow([json.dumps(cell) if isinstance(cell, list) else cell for cell in row])
        write_whole(path, text.getvalue())
        return
    import pyarrow
    import pyarrow.parquet

    empty = {name: pyarrow.string() for name, cells in columns.items() if all(cell is None for cell in cells)}
    table = pyarrow.table({name: pyarrow.array(cells, empty.get(name)) for name, cells in columns.items()})
    aside = path.with_name(f".{path.name}.partial")
    try:
        pyarrow.parquet.write_table(table, aside)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
