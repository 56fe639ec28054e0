"""Lines of text: for logs, pipes and terminals that cannot redraw."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from kdtool.events import Metric, Reporter
from kdtool.terminal import numbers, words
from kdtool.terminal.outlook import Outlook

_PATIENCE = 30.0
"""Seconds after which a long epoch says how far it is."""


class PlainReporter(Reporter):
    """One line an event, and within long epochs one every half minute.

    Args:
        stream: where the lines go.
        table: end with the table of results.
    """

    def __init__(self, stream: TextIO, table: bool = True):
        self.stream, self.table = stream, table
        self.unit, self.metric = "samples", Metric()
        self.where, self.ahead = "", Outlook()
        self.position = ""
        self.epochs = 0
        self.done_epochs = 0
        self.spoke = time.monotonic()

    def _say(self, text: str) -> None:
        print(text, file=self.stream, flush=True)
        self.spoke = time.monotonic()

    def about(self, unit: str, metric: Metric) -> None:
        self.unit, self.metric = unit, metric

    def note(self, text: str) -> None:
        self._say(words.clean(text))

    def warn(self, text: str) -> None:
        self._say(f"warning: {words.clean(text)}")

    def outlook(self, parts: Sequence[tuple[str, str, float]]) -> None:
        self.ahead = Outlook(parts)

    def phase(self, name: str) -> None:
        self.where = words.clean(name)

    def stage(self, name: str, epochs: int, steps_per_epoch: int, epochs_done: int = 0) -> None:
        self.epochs, self.done_epochs = epochs, epochs_done
        self.position = f"{self.where}: stage {words.clean(name)}"
        steps = f"{steps_per_epoch} step{'s' * (steps_per_epoch != 1)}"
        self._say(f"{self.position}, {epochs} epoch{'s' * (epochs != 1)} of {steps}")

    def step(self, terms: Mapping[str, float], step: int, steps: int, samples_per_s: float) -> None:
        if step < steps and time.monotonic() - self.spoke >= _PATIENCE:
            at = f"step {step}/{steps} of epoch {self.done_epochs + 1}/{self.epochs}"
            self._say(f"{self.position}, {at}  {words.loss_terms(terms)}  {samples_per_s:.0f} {self.unit}/s")

    def epoch(self, record: Mapping[str, Any]) -> None:
        self.done_epochs = record["epoch"]
        pieces = [
            f"{words.clean(record['phase'])} {words.clean(record['stage'])} {record['epoch']}/{record['epochs']}",
            words.loss_terms(record["train"]) or "no loss: every step was skipped",
            numbers.reading(self.metric, record.get("val")),
            f"{record['samples_per_s']:.0f} {self.unit}/s",
            f"{record['seconds']:.1f} s",
            self._left(record),
        ]
        self._say("  ".join(piece for piece in pieces if piece))

    def _left(self, record: Mapping[str, Any]) -> str:
        """Return what is left of the whole run, where that is long enough to wait for."""
        epoch = record["seconds"]
        after = self.ahead.after(record["phase"], record["stage"], record["epochs"] * epoch)
        left = (record["epochs"] - record["epoch"]) * epoch + (after or 0.0)
        return f"ETA of the run {words.duration(left)}" if after is not None and left >= _PATIENCE else ""

    def progress(self, what: str, done: int, total: int, figures: Mapping[str, float], per_s: float) -> None:
        if done >= total or time.monotonic() - self.spoke >= _PATIENCE:
            left = words.time_left(total - done, per_s)
            pace = f"{per_s:.3g} {self.unit}/s"
            pieces = [f"{words.clean(what)} {done}/{total}", words.loss_terms(figures), pace, left]
            self._say("  ".join(piece for piece in pieces if piece))

    def done(self, result: Mapping[str, Any]) -> None:
        if self.table:
            from kdtool.terminal.table import show

            show(result, self.stream)


class QuietReporter(Reporter):
    """Only warnings, on standard error, and the final table.

    Args:
        stream: where the table goes; None: no table.
    """

    def __init__(self, stream: TextIO | None):
        self.stream = stream

    def warn(self, text: str) -> None:
        print(f"warning: {words.clean(text)}", file=sys.stderr, flush=True)

    def done(self, result: Mapping[str, Any]) -> None:
        if self.stream is not None:
            from kdtool.terminal.table import show

            show(result, self.stream)
