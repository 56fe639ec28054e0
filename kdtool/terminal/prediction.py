"""What ``kdtool predict`` found, a line at a time as it comes."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kdtool.errors import InputError
from kdtool.system import strict_json
from kdtool.tasks.prediction import Prediction
from kdtool.terminal import words
from kdtool.terminal.table import width_for

PLACE, CLASS, SHARE, LONGEST = 8, 24, 9, 200
"""Width of the table's first three columns, and characters of an input that it shows; --csv and --json have all."""

ASKED = 28
"""Width of the column of prompts."""


class Writer(Protocol):
    """Writes predictions."""

    def add(self, found: Prediction) -> None:
        """Write one."""
        ...

    def end(self, left_out: int) -> None:
        """Write what comes last."""
        ...


class AsTable:
    """A table whose columns are as wide as they are before its last row is known.

    An input or a class that its column would break, as the path of a photo, stands whole on a line of its own.
    """

    def __init__(self, stream: TextIO):
        self.console = Console(file=stream, highlight=False, width=width_for(stream))
        self.first = True

    def add(self, found: Prediction) -> None:
        place = "" if found.line is None else str(found.line)
        sample = found.sample if found.line is not None else found.file
        shown = words.clean(sample if len(sample) <= LONGEST else f"{sample[: LONGEST - 1]}…")
        if found.completion is not None:
            titles = [("", PLACE), ("prompt", ASKED), ("completion", None)]
            self._put(titles, [place, shown, _completion(found)])
            return
        titles = [("", PLACE), ("class", CLASS), ("p", SHARE), ("input", None)]
        guesses = [(words.clean(name), words.percent(p)) for name, p in found.guesses] or [("(none)", "")]
        names, shares = ("\n".join(column) for column in zip(*guesses, strict=True))
        room = self.console.width - PLACE - CLASS - SHARE - 3
        if _holds(CLASS, names) and _holds(room, shown):
            self._put(titles, [place, names, shares, shown])
            return
        if self.first:
            self._put(titles, None)
        self.console.print(Text(f"{place:>{PLACE}} {shown}" if place else shown), soft_wrap=True)
        for name, share in guesses:
            line = f"{'':{PLACE}} {name}{' ' * (CLASS - cell_len(name))} {share:>{SHARE}}"
            self.console.print(Text(line), soft_wrap=True)

    def _put(self, titles: Sequence[tuple[str, int | None]], cells: Sequence[str] | None) -> None:
        """Print a row, below the titles where it is the first; without one the titles alone."""
        table = Table(box=None, show_header=self.first, pad_edge=False)
        for title, width in titles:
            right = title in ("", "p")
            table.add_column(title, width=width, justify="right" if right else "left", overflow="fold")
        if cells is not None:
            table.add_row(*map(Text, cells))
        self.console.print(table)
        self.first = False

    def end(self, left_out: int) -> None:
        """Leave nothing to say: what was left out was told."""


def _holds(width: int, cell: str) -> bool:
    """Tell whether no word of a cell has to be broken in a column of so many places."""
    return all(cell_len(word) <= width for word in cell.split())


def _completion(found: Prediction) -> str:
    lines = (words.clean(line) for line in (found.completion or "").splitlines())
    return "\n".join(lines) + ("" if found.finished else " [cut off: --new-tokens]")


class AsCsv:
    """A line for each class of an input, or for its completion."""

    def __init__(self, stream: TextIO):
        self.stream, self.rows, self.first = stream, csv.writer(stream, lineterminator="\n"), True

    def add(self, found: Prediction) -> None:
        if self.first:
            guess = ["rank", "class", "probability"] if found.completion is None else ["completion", "finished"]
            self.rows.writerow(["file", "line", "input", *guess])
            self.first = False
        if found.completion is not None:
            self.rows.writerow([found.file, found.line, found.sample, found.completion, str(found.finished).lower()])
        elif not found.guesses:  # of several classes none is likely, and the input has its line all the same
            self.rows.writerow([found.file, found.line, found.sample, "", "", ""])
        for rank, (name, p) in enumerate(found.guesses, 1):
            self.rows.writerow([found.file, found.line, found.sample, rank, name, f"{p:.6g}"])
        self.stream.flush()

    def end(self, left_out: int) -> None:
        """Leave nothing to say: what was left out was told."""


class AsJson:
    """One document, written as it grows: {"predictions": [...], "left_out": 0}."""

    def __init__(self, stream: TextIO):
        self.stream, self.first = stream, True

    def add(self, found: Prediction) -> None:
        head = '{"predictions": [\n' if self.first else ",\n"
        self.stream.write(head + strict_json.dumps(found.to_dict(), ensure_ascii=False))
        self.stream.flush()
        self.first = False

    def end(self, left_out: int) -> None:
        self.stream.write(f'\n], "left_out": {left_out}}}\n')
        self.stream.flush()


def in_order(predictions: Iterable[Prediction], by: str) -> Iterator[Prediction]:
    """Yield predictions in order, once all are there; those without a class last, in the order in which they came.

    Args:
        predictions: as they come.
        by: "confidence": of the likeliest class, the least certain first; "class": its name, the most certain first.

    Raises:
        InputError: they are completions, which have no class.
    """
    every = list(predictions)
    if any(each.completion is not None for each in every):
        raise InputError("--sort goes by classes, and a language model's completions have none. Leave it out.")
    told = [each for each in every if each.guesses]
    told.sort(key=lambda each: each.guesses[0][1], reverse=by == "class")
    if by == "class":
        told.sort(key=lambda each: each.guesses[0][0])
    yield from told
    yield from (each for each in every if not each.guesses)


def write(predictions: Iterator[Prediction], writer: Writer, warn: TextIO, told: int = 20) -> None:
    """Write predictions as they come, and say what could not be read.

    Args:
        predictions: in order; they may never end.
        writer: of those that could be read.
        warn: takes a line for each that could not, and their number at the end.
        told: how many of them are told one by one.
    """
    count = bad = 0
    for found in predictions:
        count += 1
        if not found.problem:
            writer.add(found)
            continue
        bad += 1
        if bad <= told:
            warn.write(f"left out: {words.clean(found.where)}: {words.clean(found.problem)}\n")
        elif bad == told + 1:
            warn.write("left out: more are counted, not named\n")
        warn.flush()
    writer.end(bad)
    if bad:
        warn.write(f"{bad:,} of {count:,} inputs could not be read and were left out\n")
