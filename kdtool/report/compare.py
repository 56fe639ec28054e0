"""A comparison as people watch it and as it ends: a table of methods and what it shows."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from kdtool.report import words

if TYPE_CHECKING:
    from rich.table import Table

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
        self.note(f"{over}/{len(values['runs'])}  {_line(run)}")

    def done(self, values: Mapping[str, Any]) -> None:
        if self.table:
            show(values, self.stream)


class LiveWatcher(Watcher):
    """The table as it fills, and what runs now; notes and failures scroll by above.

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
            self.note(_line(run))

    def tick(self, running: Sequence[Job]) -> None:
        from rich.console import Group
        from rich.live import Live
        from rich.text import Text

        if self.values is None:
            return
        runs = self.values["runs"]
        over = sum(each["state"] in ("done", "failed") for each in runs)
        lines = [Text(f"{over} of {len(runs)} runs done, {len(running)} running", style="bold")]
        room = max(1, self.console.height - 8 - len(self.values["rows"]))
        for job in running[:room]:
            lines.append(Text(f"{words.clean(job.name)}: {words.clean(last_line(job.log))}", style="cyan"))
        group = Group(table(self.values), *(Text.assemble(line, no_wrap=True, overflow="ellipsis") for line in lines))
        if self.live is None:
            self.live = Live(console=self.console, auto_refresh=False, transient=True)
            self.live.start()
        self.live.update(group, refresh=True)

    def done(self, values: Mapping[str, Any]) -> None:
        self.close()
        if self.table:
            show(values, self.stream)


def choose(*, json: bool, quiet: bool) -> Watcher:
    """Return a live view for terminals and plain lines for everything else, as ``kdtool.report.choose`` does."""
    import sys

    stream = sys.stderr if json else sys.stdout
    if quiet:
        return Watcher()
    if stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown"):
        return LiveWatcher(stream, table=not json)
    return PlainWatcher(stream, table=not json)


def show(values: Mapping[str, Any], stream: TextIO) -> None:
    """Print a comparison's table and what it shows to ``stream``."""
    from rich.console import Console
    from rich.text import Text

    from kdtool.report.table import width_for

    console = Console(file=stream, highlight=False, width=width_for(stream))
    console.print(table(values))
    for sentence in values["says"]:
        console.print(Text(f"- {words.clean(sentence)}"))
    for run in values["runs"]:
        if run["state"] == "failed":
            console.print(Text(_line(run)))


def table(values: Mapping[str, Any]) -> Table:
    """Return the table of a comparison's document: a line for each student and method."""
    from rich.table import Table
    from rich.text import Text

    several = len(values["students"]) > 1
    last = values["selected"] == "best"
    device = any(row["cost"]["device_bytes"] for row in values["rows"])
    titles = ["student"] * several + ["method", "seeds", "top-1, %", f"to {values['reference']}, 95 %"]
    titles += ["last epoch", f"to {values['reference']}"] * last + ["s", "memory"] + ["GPU memory"] * device
    found = Table(title=f"test split, {values['data']['name']}", title_justify="left")
    for title in titles:
        found.add_column(title, justify="left" if title in ("student", "method") else "right")
    for row in values["rows"]:
        cost = row["cost"]
        cells = [words.clean(row["student"])] * several + [words.clean(row["method"])]
        cells += [f"{row['seeds']}" + (f" ({len(row['failed'])} failed)" if row["failed"] else "")]
        cells += [_spread(row["best"]), difference(row["best"]["difference"])]
        cells += [_spread(row["last"]), difference(row["last"]["difference"])] * last
        cells += ["-" if cost["seconds"] is None else f"{cost['seconds']:.1f}", words.size(cost["host_bytes"])]
        cells += [words.size(cost["device_bytes"])] * device
        found.add_row(*map(Text, cells))
    return found


def difference(found: Mapping[str, Any] | None) -> str:
    """Return a difference in points, as "+1.20 ± 0.85", and "" for none."""
    if not found or found["mean"] is None:
        return ""
    text = f"{100 * found['mean']:+.2f}"
    return text if found["low"] is None else f"{text} ± {50 * (found['high'] - found['low']):.2f}"


def last_line(log: Path) -> str:
    """Return the last line of a run's log, or "starting"."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - 2000))
            lines = stream.read().decode(errors="replace").splitlines()
    except OSError:
        lines = []
    return next((line for line in reversed(lines) if line.strip()), "starting")


def _spread(found: Mapping[str, Any]) -> str:
    if found["mean"] is None:
        return "-"
    return f"{100 * found['mean']:.2f}" + (f" ± {100 * found['sd']:.2f}" if found["sd"] is not None else "")


def _line(run: Mapping[str, Any]) -> str:
    name = f"{run['student']} {run['method']} seed {run['seed']}"
    if run["state"] == "failed":
        return words.clean(f"{name} failed: {run['error']}")
    return words.clean(f"{name}: top-1 {words.percent(run['top1'])}")
