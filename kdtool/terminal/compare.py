"""A comparison as people watch it and as it ends: a table of methods and what it shows."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from kdtool.events import Metric
from kdtool.terminal import numbers, words

if TYPE_CHECKING:
    from kdtool.comparison.work import Job


class Watcher:
    """Hears of a comparison's events; this base keeps silent. A context, so that a live view ends with it."""

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Leave the terminal as it was found."""

    def note(self, text: str) -> None:
        """Say something worth knowing."""

    def known(self, values: Mapping[str, Any]) -> None:
        """The document has changed."""

    def ended(self, run: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """A run has ended, well or not; one of the document's "runs"."""

    def tick(self, running: Sequence[Job]) -> None:
        """Some time has passed."""

    def done(self, values: Mapping[str, Any]) -> None:
        """All runs have ended."""


class QuietWatcher(Watcher):
    """The table at the end, and nothing before it.

    Args:
        stream: where it goes.
    """

    def __init__(self, stream: TextIO):
        self.stream = stream

    def done(self, values: Mapping[str, Any]) -> None:
        show(values, self.stream)


class PlainWatcher(Watcher):
    """A line a run, then the table.

    Args:
        stream: where they go.
        table: end with the table.
    """

    def __init__(self, stream: TextIO, table: bool = True):
        self.stream, self.table = stream, table

    def note(self, text: str) -> None:
        print(words.clean(text), file=self.stream, flush=True)

    def ended(self, run: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        over = sum(each["state"] in ("done", "failed") for each in values["runs"])
        self.note(f"{over}/{len(values['runs'])}  {_line(run, values)}")

    def done(self, values: Mapping[str, Any]) -> None:
        if self.table:
            show(values, self.stream)


class LiveWatcher(Watcher):
    """What runs now and the table as it fills; notes and failures scroll by above.

    Args:
        stream: the terminal.
        table: end with the table and what it shows.
    """

    def __init__(self, stream: TextIO, table: bool = True):
        from rich.console import Console
        from rich.live import Live

        self.stream, self.table = stream, table
        self.console = Console(file=stream, highlight=False)
        self.live: Live | None = None
        self.values: Mapping[str, Any] | None = None

    def close(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    def note(self, text: str) -> None:
        from rich.text import Text

        self.console.print(Text(words.clean(text), style="dim"))

    def known(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def ended(self, run: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        if run["state"] == "failed":
            self.note(_line(run, values))

    def tick(self, running: Sequence[Job]) -> None:
        from rich.console import Group
        from rich.live import Live
        from rich.text import Text

        from kdtool.terminal.compare_table import tables

        if self.values is None:
            return
        runs = self.values["runs"]
        over = sum(each["state"] in ("done", "failed") for each in runs)
        lines = [Text(f"{over} of {len(runs)} runs done, {len(running)} running", style="bold")]
        for job in running[: max(1, self.console.height // 4)]:
            text = f"{words.clean(job.name)}: {words.clean(last_line(job.log))}"
            lines.append(Text(text, style="cyan", no_wrap=True, overflow="ellipsis"))
        group = Group(*lines, Text(), tables(self.values, self.console.width))
        if self.live is None:
            self.live = Live(console=self.console, auto_refresh=False, transient=True)
            self.live.start()
        self.live.update(group, refresh=True)

    def done(self, values: Mapping[str, Any]) -> None:
        self.close()
        if self.table:
            show(values, self.stream)


def choose(*, json: bool, quiet: bool) -> Watcher:
    """Return a live view for terminals and plain lines for everything else, as ``kdtool.terminal.choose`` does."""
    import sys

    stream = sys.stderr if json else sys.stdout
    if quiet:
        return Watcher() if json else QuietWatcher(stream)
    if stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown"):
        return LiveWatcher(stream, table=not json)
    return PlainWatcher(stream, table=not json)


def show(values: Mapping[str, Any], stream: TextIO) -> None:
    """Print a comparison's table and what it shows to ``stream``."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from kdtool.terminal.compare_table import tables
    from kdtool.terminal.table import width_for

    console = Console(file=stream, highlight=False, width=width_for(stream))
    console.print(tables(values, console.width))
    console.print()
    says = Table.grid(padding=(0, 1, 0, 0))
    for sentence in values["says"]:
        says.add_row("-", Text(words.clean(sentence)))
    console.print(says)
    for run in values["runs"]:
        if run["state"] == "failed":
            console.print(Text(_line(run, values)))


def last_line(log: Path) -> str:
    """Return the last line of a run's log, or "starting"."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - 2000))
            lines = stream.read().decode(errors="replace").splitlines()
    except OSError:
        lines = []
    return next((line for line in reversed(lines) if line.strip()), "starting")


def _line(run: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    metric = Metric.of(values)
    name = f"{run['student']} {run['method']} seed {run['seed']}"
    if run["state"] == "failed":
        return words.clean(f"{name} failed: {run['error']}")
    return words.clean(f"{name}: {metric.label} {numbers.value(metric, run[metric.key])}")
