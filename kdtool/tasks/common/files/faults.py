"""Lines that hold no sample: left out, counted against ``data.max_bad``, and listed in a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from kdtool.errors import InputError, RunError
from kdtool.system.disk import append_line

FILE = "bad-lines.jsonl"
"""The list's name in a run's folder."""


@dataclass(frozen=True)
class BadLine:
    """A line that holds no sample.

    Attributes:
        file: as the user knows it.
        line: its number, from 1; the first of ``lines`` where a quoted field goes over several.
        why: what is wrong with it.
        unit: "line" or "row".
        lines: how many lines are lost with it.
    """

    file: str
    line: int
    why: str
    unit: str = "line"
    lines: int = 1

    def __str__(self) -> str:
        return f"{self.file}, {self.unit} {self.line}: {self.why}"


class Faults:
    """All lines of a data set that were left out.

    Args:
        limit: the share of a split that may be (``data.max_bad``).
    """

    def __init__(self, limit: float = 0.0):
        self.limit = limit
        self.found: dict[str, list[BadLine]] = {}
        self.path: Path | None = None
        self._unlisted = 0
        self._known: set[str] = set()

    def note(self, split: str, good: int, bad: Sequence[BadLine], unlisted: int = 0) -> None:
        """Count the lines of a split, once it is read, that were left out.

        Args:
            split: its name, for messages.
            good: how many samples it has.
            bad: the lines left out.
            unlisted: further ones, of which nothing else is known.

        Raises:
            InputError: they are too many.
        """
        if not bad:
            return
        lost = sum(each.lines for each in bad) + unlisted
        if lost > self.limit * (good + lost):
            others = f"Of {good + lost} {bad[0].unit}s in all, {lost} are bad" if lost > 1 else "It is one bad line"
            raise InputError(
                f"{bad[0]} {others}{'' if lost > 1 else f' of {good + lost}'}, more than data.max_bad={self.limit:g} "
                "allows. Mend or remove them, or raise data.max_bad."
            )
        if split in self.found:
            return  # read again
        self.found[split] = list(bad)
        self._unlisted += unlisted
        if self.path is not None:
            self._list(split)

    def add(self, split: str, total: int, bad: Sequence[BadLine]) -> None:
        """Count lines of a split of ``total`` samples that turn out to be bad while it is read, each once.

        Raises:
            InputError: they are too many, and the run has not begun.
            RunError: they are too many, and it has.
        """
        there = self.found.setdefault(split, []) if bad else []
        new = {line: each for each in bad if (line := self._line(split, each)) not in self._known}
        if not new:
            return
        self._known.update(new)
        there.extend(new.values())
        if self.path is not None:
            self._append(list(new))
        lost = sum(each.lines for each in there)
        if lost > self.limit * total:
            kind = InputError if self.path is None else RunError
            raise kind(
                f"{there[0]} Of {total:,} {there[0].unit}s in all, {lost:,} were bad so far, more than "
                f"data.max_bad={self.limit:g} allows. Mend or remove them, or raise data.max_bad."
            )

    def write_to(self, path: Path) -> None:
        """List what was found, and what will be, in a file: a line of JSON each.

        Raises:
            RunError: it cannot be written.
        """
        self.path = path
        for split in self.found:
            self._list(split)

    def sentence(self) -> str | None:
        """Return what was left out, for the user; None: nothing was."""
        count = len(self)
        if not count:
            return None
        where = f": see {self.path}" if self.path is not None else ""
        return f"{count:,} bad line{' of the data was' if count == 1 else 's of the data were'} left out{where}"

    def __len__(self) -> int:
        return self._unlisted + sum(each.lines for bad in self.found.values() for each in bad)

    def _list(self, split: str) -> None:
        self._append([self._line(split, each) for each in self.found[split]])

    def _line(self, split: str, bad: BadLine) -> str:
        return json.dumps({"split": split, **asdict(bad)})

    def _append(self, lines: Sequence[str]) -> None:
        assert self.path is not None
        # Several processes, and a resumed run, find the same lines.
        there = set(self.path.read_text(encoding="utf-8").splitlines()) if self.path.exists() else set()
        new = [line for line in lines if line not in there]
        if new:
            append_line(self.path, "\n".join(new))
