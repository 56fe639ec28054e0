"""Tables with typed columns: .parquet files, and splits of Hugging Face ``datasets``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kdtool.errors import InputError
from kdtool.tasks.common.files.tables import Row

BATCH = 10_000
"""Rows that are turned into Python's own values at once."""


FEW, BUFFER = 64, 1 << 18
"""Rows that are turned at once where many files are read side by side, and bytes that each column reads ahead."""


class Parquet:
    """A .parquet file.

    Args:
        path: where.
        origin: its name in messages.
        number: rows that are passed over.
        beside: other files are read at the same time: hold few rows.

    Attributes:
        number: of the row that was read last.

    Raises:
        InputError: pyarrow is missing, or the file cannot be read.
    """

    unit = "row"

    def __init__(self, path: Path, origin: str, number: int = 0, beside: bool = False):
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            raise InputError(f"{origin} is a parquet file; reading it needs: pip install 'kdtool[parquet]'") from error
        self.origin, self.number, self._at_once = origin, number, FEW if beside else BATCH
        # A damaged file may fail in its names (ValueError) and sizes (MemoryError) as well.
        self._errors = (OSError, ValueError, LookupError, MemoryError, pa.ArrowException)
        try:
            self._file = pq.ParquetFile(path, buffer_size=BUFFER if beside else 0)
            self._schema = self._file.schema_arrow
        except self._errors as error:
            raise self._refusal(error) from error
        self.columns: list[str] = list(self._schema.names)

    def declared(self, column: str) -> list[str] | None:
        """Return the names that ``datasets`` wrote for the classes of a column."""
        try:
            raw = (self._schema.metadata or {}).get(b"huggingface")
            names = json.loads(raw)["info"]["features"][column]["names"] if raw else None
        except (ValueError, KeyError, TypeError):
            return None
        return [str(name) for name in names] if isinstance(names, list) else None

    def rows(self, wanted: Sequence[str]) -> Iterator[Row]:
        """Yield the values of these columns."""
        try:
            groups, skip = self._behind()
            for batch in self._file.iter_batches(self._at_once, row_groups=groups, columns=list(wanted)):
                passed = min(skip, batch.num_rows)
                skip -= passed
                columns = [_values(batch.column(name).slice(passed)) for name in wanted]
                for cells in zip(*columns, strict=True):
                    self.number += 1
                    yield Row(self.number, cells)
        except self._errors as error:
            raise self._refusal(error) from error

    def _behind(self) -> tuple[list[int] | None, int]:
        """Return the groups of rows to read, None for all, and the rows of the first that are passed over."""
        if not self.number:
            return None, 0
        first, skip, whole = 0, self.number, self._file.metadata
        while first < whole.num_row_groups and skip >= whole.row_group(first).num_rows:
            skip -= whole.row_group(first).num_rows
            first += 1
        return list(range(first, whole.num_row_groups)), skip

    def _refusal(self, error: Exception) -> InputError:
        return InputError(f"{self.origin} cannot be read as parquet ({' '.join(str(error).split())[:200]}).")


def _values(column: Any) -> list[Any]:
    try:
        found: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        found = [_value(each) for each in column]
    return found


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return b""  # no text: the row is bad


class HubSplit:
    """A split of a data set that ``datasets`` opened."""

    unit = "row"

    def __init__(self, split: Any, origin: str):
        self.origin, self._split = origin, split
        self.columns: list[str] = list(split.column_names)

    def declared(self, column: str) -> list[str] | None:
        """Return the names of a ClassLabel."""
        names = getattr(self._split.features[column], "names", None)
        return [str(name) for name in names] if names else None

    def rows(self, wanted: Sequence[str]) -> Iterator[Row]:
        """Yield the values of these columns."""
        chosen = self._split.select_columns(list(wanted))
        for start in range(0, len(chosen), BATCH):
            found = chosen[start : start + BATCH]
            for number, cells in enumerate(zip(*(found[name] for name in wanted), strict=True), start + 1):
                yield Row(number, cells)
