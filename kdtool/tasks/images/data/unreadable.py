"""Images that cannot be read: each replaced by the next of its class that can, counted, and listed in a file.

The replacement is a function of the row and of the files alone, so that it is the same in memory and streamed, with any
number of workers, and in a resumed run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdtool.errors import InputError, RunError
from kdtool.system.disk import append_line
from kdtool.tasks.images.data.reduced import read

if TYPE_CHECKING:
    from PIL.Image import Image

    from kdtool.tasks.images.data.dataset import Images
    from kdtool.tasks.images.data.decode import Enough

FILE = "bad-images.jsonl"
"""The list's name in a run's folder."""

TRIES = 100
"""How many images of the class are tried in the place of one that cannot be read."""


HUNDRED = 100
"""Of fewer images in a split as many may be unreadable as of so many: else one of fifty would end a run."""

THREADS = 4
"""Threads that decode; PIL releases the interpreter while it does."""

SURVEY_SECONDS = 60
"""How long all others that cannot be read are looked for, once they are too many."""

NAMED = 100
"""Images that an error names at most."""


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
        limit: the share of a split that may be unreadable (``data.max_bad``), of a hundred at least.
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

    def note(
        self,
        split: str,
        total: int,
        replaced: Iterable[Replaced],
        others: Callable[[], list[str]] = lambda: [],
    ) -> None:
        """Count and list images of a split of ``total`` images.

        Args:
            split: its name.
            total: its images.
            replaced: those that were found.
            others: looks for all of the split's, and returns what is wrong with each.

        Raises:
            InputError: they are too many, and the run has not begun.
            RunError: they are too many, and it has.
        """
        for each in replaced:
            if (split, each.row) not in self.found:
                self.found[split, each.row] = each
                if self.path is not None:
                    self._list(split, each)
        why = [each.why for (name, _), each in self.found.items() if name == split]
        if self._too_many(len(why), total):
            self.refuse(split, total, why if self.path is not None else others() or why)

    def _too_many(self, count: int, total: int) -> bool:
        return count > self.limit * max(total, HUNDRED)

    def refuse(self, split: str, total: int, why: list[str]) -> None:
        """Refuse so many images that cannot be read.

        Args:
            split, total: as for ``note``.
            why: what is wrong with each.

        Raises:
            InputError: they are too many, and the run has not begun.
            RunError: they are too many, and it has.
        """
        if not self._too_many(len(why), total):
            return
        said = [each.removesuffix(": mend or remove it.") for each in why[:NAMED]]
        rest = f" and {len(why) - NAMED} more" if len(why) > NAMED else ""
        where = f"All so far are listed in {self.path}." if self.path else f"They are: {'; '.join(said)}{rest}."
        kind = InputError if self.path is None else RunError
        raise kind(
            f"{len(why)} of {total} {split} images cannot be read, more than data.max_bad={self.limit:g} allows. "
            f"{where} Mend or remove them, or raise data.max_bad."
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
        images: of the whole source; None where they cannot be read by number.
    """

    split: str
    rows: np.ndarray
    labels: np.ndarray
    unreadable: Unreadable
    images: Images | None = None

    def read(self, images: Images, row: int, enough: Enough | None = None) -> tuple[Image, Replaced | None]:
        """Return an image, or the next readable one of the same class, and whether it is that.

        Args:
            images: of them.
            row: which.
            enough: as for ``kdtool.tasks.images.data.reduced.read``.

        Raises:
            InputError: neither can be read.
        """
        try:
            return read(images, row, enough), None
        except InputError as error:
            why = str(error)
        for other in self._after(row)[:TRIES].tolist():
            try:
                return read(images, other, enough), Replaced(row, other, why)
            except InputError:
                continue
        raise InputError(f"{why} No other image of its class was found that can.")

    def note(self, replaced: Iterable[Replaced | None]) -> None:
        """Note those that are not None; see ``Unreadable.note``."""
        self.unreadable.note(self.split, len(self.rows), [each for each in replaced if each is not None], self._all)

    def _all(self) -> list[str]:
        """Return what is wrong with each image of the split that cannot be read, as far as the time goes."""
        end = time.monotonic() + SURVEY_SECONDS

        def why(row: int) -> str | None:
            try:
                if self.images is not None and time.monotonic() < end:
                    self.images[row]
            except InputError as error:
                return str(error)
            return None

        with ThreadPoolExecutor(THREADS) as threads:
            return [each for each in threads.map(why, self.rows.tolist()) if each is not None]

    def _after(self, row: int) -> np.ndarray:
        """Return the rows of the same class, in their order from ``row`` on and round."""
        same = np.sort(self.rows[self.labels == self.labels[self.rows == row][0]])
        return np.concatenate([same[same > row], same[same < row]])
