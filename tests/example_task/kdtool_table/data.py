"""A table of numbers as a CSV file: a line of titles, then a line a row, the class's name last."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np

from kdtool.errors import InputError
from kdtool.recipe.schema import Data
from kdtool.tasks.common import held_out
from kdtool.tasks.common.held import HeldData, HeldSplit


def open_table(cfg: Data) -> HeldData:
    """Return the rows of the file that ``data.name`` names, split as the section says.

    Raises:
        InputError: there is no such file, it has no rows, or something in it is no number.
    """
    path = Path(cfg.name)
    if not path.is_file():
        raise InputError(f"--data {cfg.name}: there is no such file.")
    raw = path.read_bytes()
    rows = list(csv.reader(raw.decode().splitlines()))[1:]
    names = sorted({row[-1] for row in rows})
    try:
        values = np.array([row[:-1] for row in rows], dtype=np.float32)
    except ValueError as error:
        raise InputError(f"--data {cfg.name}: {error}") from error
    if not len(rows) or values.ndim != 2:
        raise InputError(f"--data {cfg.name}: expected a line of titles, then rows of equal length.")
    labels = np.array([names.index(row[-1]) for row in rows], dtype=np.int64)
    whole = HeldSplit(values, labels, np.arange(len(rows), dtype=np.int64))
    train, val, test = held_out.roles(whole, None, None, cfg)
    held_out.refuse_unfit({"training": train, "validation": val, "test": test}, cfg, "rows")
    fingerprint = held_out.fingerprint(hashlib.sha256(raw).hexdigest(), cfg)
    return HeldData(path.name, names, train, val, test, fingerprint)


def write(folder: Path, seed: int) -> dict[str, object]:
    """Write sixty rows of three classes, and return what opens them: specimens for the conformance kit."""
    draw = np.random.Generator(np.random.Philox(seed))
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "c", "d", "class"])
        for row in range(60):
            writer.writerow([*(draw.normal(size=4) + row % 3).round(4), f"class{row % 3}"])
    return {"data.name": str(folder / "table.csv")}
