"""The kinds of tables that can be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kdtool.errors import InputError
from kdtool.tasks.common.files.arrow import Parquet
from kdtool.tasks.common.files.lines import Delimited, JsonLines
from kdtool.tasks.common.files.tables import Table

KINDS: dict[str, Callable[[Path, str], Table]] = {
    ".tsv": Delimited,
    ".csv": Delimited,
    ".jsonl": JsonLines,
    ".parquet": Parquet,
}
"""The files that can be read, by how their names end."""


def open_table(path: Path, what: str = "texts") -> Table:
    """Open a file.

    Args:
        path: where.
        what: it is a table of, for messages.

    Raises:
        InputError: it is of no kind that is known, is empty, or its header cannot be read.
    """
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise InputError(f"{path}: a file of {what} is one of {', '.join(KINDS)}.")
    return kind(path, str(path))
