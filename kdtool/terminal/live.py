"""The live view of a terminal: what runs now, how far it is, how the loss and the accuracy move."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kdtool.events import Metric, Reporter
from kdtool.terminal import numbers, words
from kdtool.terminal.outlook import Outlook

_HISTORY = 6
"""Epochs that stay in view; all of them are in metrics.jsonl."""


class RichReporter(Reporter):
    """Redraws one block a phase; notes scroll by above it, and a finished block stays.

    Args:
        stream: the terminal.
        table: end with the table of results.
    """

    def __init__(self, stream: TextIO, table: bool = True):
        self.stream, self.table = stream, table
        self.console = Console(file=stream, highlight=False)
        self.live: Live | None = None
        self.unit, self.metric = "samples", Metric()
        self.phase_name, self.ahead = "", Outlook()
        self.history: deque[Mapping[str, Any]] = deque(maxlen=_HISTORY)
        self._begin_stage("", 1, 1, 0)

    def _begin_stage(self, name: str, epochs: int, steps: int, epochs_done: int) -> None:
        self.stage_name, self.epochs, self.steps = name, max(epochs, 1), max(steps, 1)
        self.epoch_at, self.step_at = epochs_done, 0
        self.terms: Mapping[str, float] = {}
        self.speed = 0.0
        self.ticked = time.monotonic()
        self.seconds_per_step: float | None = None

    # --- events -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    def about(self, unit: str, metric: Metric) -> None:
        self.unit, self.metric = unit, metric

    def note(self, text: str) -> None:
        self.console.print(Text(words.clean(text), style="dim"))

    def warn(self, text: str) -> None:
        self.console.print(Text(f"warning: {words.clean(text)}", style="yellow"))

    def outlook(self, parts: Sequence[tuple[str, str, float]]) -> None:
        self.ahead = Outlook([(words.clean(phase), words.clean(stage), work) for phase, stage, work in parts])

    def phase(self, name: str) -> None:
        self.close()
        self.history.clear()
        self.phase_name = words.clean(name)

    def stage(self, name: str, epochs: int, steps_per_epoch: int, epochs_done: int = 0) -> None:
        self._begin_stage(words.clean(name), epochs, steps_per_epoch, epochs_done)
        if self.live is None:
            self.live = Live(get_renderable=self.block, console=self.console, refresh_per_second=4)
            self.live.start()

    def step(self, terms: Mapping[str, float], step: int, steps: int, samples_per_s: float) -> None:
        now = time.monotonic()
        if step > self.step_at:
            self.seconds_per_step = (now - self.ticked) / (step - self.step_at)
        self.terms, self.step_at, self.steps, self.speed, self.ticked = terms, step, max(steps, 1), samples_per_s, now

    def epoch(self, record: Mapping[str, Any]) -> None:
        self.epoch_at, self.step_at = record["epoch"], 0
        # The whole epoch with its validation tells more about the time left than its last steps do.
        self.seconds_per_step = record["seconds"] / self.steps
        self.ticked = time.monotonic()
        self.terms, self.speed = record["train"], record["samples_per_s"]
        self.history.append(record)

    def progress(self, what: str, done: int, total: int, figures: Mapping[str, float], per_s: float) -> None:
        line = Table.grid(padding=(0, 2))
        line.add_row(
            Text(words.clean(what), style="bold"),
            ProgressBar(total=max(total, 1), completed=done, width=24),
            Text(f"{done}/{total}"),
            Text(words.time_left(total - done, per_s) or "done"),
            Text(f"{per_s:.3g} {self.unit}/s"),
            Text(words.loss_terms(figures), style="cyan"),
        )
        if self.live is None:
            self.live = Live(line, console=self.console, refresh_per_second=4)
            self.live.start()
        self.live.update(line)
        if done >= total:
            self.close()

    def done(self, result: Mapping[str, Any]) -> None:
        self.close()
        if self.table:
            from kdtool.terminal.table import show

            show(result, self.stream)

    # --- drawing ----------------------------------------------------------------------------------------------

    def block(self) -> Group:
        """Return what stands on the screen now."""
        total, done = self.epochs * self.steps, self.epoch_at * self.steps + self.step_at
        head = Table.grid(padding=(0, 2))
        where = (
            f"{self.phase_name} · stage {self.stage_name} · epoch {min(self.epoch_at + 1, self.epochs)}/{self.epochs}"
        )
        head.add_row(
            Text(where, style="bold"),
            ProgressBar(total=total, completed=done, width=24),
            Text(self._eta(total - done)),
            Text(f"{self.speed:.0f} {self.unit}/s" if self.speed else ""),
        )
        return Group(*([self._past()] if self.history else []), head, Text(words.loss_terms(self.terms), style="cyan"))

    def _eta(self, steps_left: int) -> str:
        if self.seconds_per_step is None:
            return "ETA ..." if steps_left > 0 else "done"
        left = steps_left * self.seconds_per_step
        after = self.ahead.after(self.phase_name, self.stage_name, self.epochs * self.steps * self.seconds_per_step)
        stage = f"ETA {words.duration(left)}" if steps_left > 0 else "done"
        return f"{stage}, of the run {words.duration(left + after)}" if after else stage

    def _past(self) -> Table:
        names = list(dict.fromkeys(name for record in self.history for name in record["train"] if name != "total"))
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        reading = f"val {self.metric.label}"
        for title in ("stage", "epoch", "loss", *(words.clean(name) for name in names), reading, "seconds"):
            table.add_column(Text(title), justify="left" if title == "stage" else "right")
        for record in self.history:
            train = record["train"]
            cells = [words.clean(record["stage"]), f"{record['epoch']}/{record['epochs']}", _number(train.get("total"))]
            cells += [_number(train.get(name)) for name in names]
            cells += [
                numbers.value(self.metric, (record.get("val") or {}).get(self.metric.key)),
                f"{record['seconds']:.1f}",
            ]
            table.add_row(*(Text(cell) for cell in cells))
        return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
