"""Images that cannot be read: each replaced by the next of its class that can, counted, and listed in a file.

The replacement is a function of the row and of the files alone, so that it is the same in memory and streamed, with any
number of workers, and in a resumed run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdtool.errors import InputError, RunError
from kdtool.system.disk import append_line

if TYPE_CHECKING:
    from PIL.Image import Image

    from kdtool.tasks.images.data.dataset import Images

FILE = "bad-images.jsonl"
"""The list's name in a run's folder."""

TRIES = 100
"""How many images of the class are tried in the place of one that cannot be read."""


@dataclass(frozen=True)
class Replaced:
    """An image that cannot be read.

    Attributes:
        row: its row.
        by: the row whose image stands in for it.
        why: what was wrong, with the file's name.
    """

    row: int
    by: int
    why: str


class Unreadable:
    """All images of a data set that could not be read so far.

    Args:
        limit: the share of a split that may be unreadable (``data.max_bad``).
    """

    def __init__(self, limit: float):
        self.limit = limit
        self.found: dict[tuple[str, int], Replaced] = {}
        self.path: Path | None = None

    def write_to(self, path: Path) -> None:
        """List what was found, and what will be, in a file: a line of JSON each."""
        self.path = path
        for (split, _), each in self.found.items():
            self._list(split, each)

    def note(self, split: str, total: int, replaced: Iterable[Replaced]) -> None:
        """Count and list images of a split of ``total`` images.

        Raises:
            InputError: they are too many, and the run has not begun.
            RunError: they are too many, and it has.
        """
        for each in replaced:
            if (split, each.row) in self.found:
                continue
            self.found[split, each.row] = each
            if self.path is not None:
                self._list(split, each)
            count = sum(name == split for name, _ in self.found)
            if count > self.limit * total:
                where = f" All so far are listed in {self.path}." if self.path else ""
                kind = InputError if self.path is None else RunError
                raise kind(
                    f"{count} of {total} {split} images cannot be read, more than data.max_bad={self.limit:g} allows. "
                    f"The last: {each.why}{where} Mend or remove them, or raise data.max_bad."
                )

    def _list(self, split: str, each: Replaced) -> None:
        assert self.path is not None
        line = json.dumps({"split": split, **asdict(each)})
        # Several processes, and a resumed run, find the same images.
        if not self.path.exists() or line not in self.path.read_text().splitlines():
            append_line(self.path, line)


@dataclass(frozen=True)
class Pool:
    """The samples of a split, before it was thinned: those that may stand in for one another.

    Attributes:
        split: its name, for messages.
        rows: (N,) int64.
        labels: (N,) int64.
        unreadable: where those that cannot be read are noted.
    """

    split: str
    rows: np.ndarray
    labels: np.ndarray
    unreadable: Unreadable

    def read(self, images: Images, row: int) -> tuple[Image, Replaced | None]:
        """Return an image, or the next readable one of the same class, and whether it is that.

        Raises:
            InputError: neither can be read.
        """
        try:
            return images[row], None
        except InputError as error:
            why = str(error)
        for other in self._after(row)[:TRIES].tolist():
            try:
                return images[other], Replaced(row, other, why)
            except InputError:
                continue
        raise InputError(f"{why} No other image of its class was found that can.")

    def note(self, replaced: Iterable[Replaced | None]) -> None:
        """Note those that are not None; see ``Unreadable.note``."""
        self.unreadable.note(self.split, len(self.rows), [each for each in replaced if each is not None])

    def _after(self, row: int) -> np.ndarray:
        """Return the rows of the same class, in their order from ``row`` on and round."""
        same = np.sort(self.rows[self.labels == self.labels[self.rows == row][0]])
        return np.concatenate([same[same > row], same[same < row]])
