"""What a run tells those who watch it."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any


class Reporter:
    """Hears of a run's events; this base keeps silent. A context, so that a live view ends with the run."""

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Leave the terminal as it was found; nothing is reported afterwards."""

    def note(self, text: str) -> None:
        """Say something worth knowing: a resolved name, a reused teacher."""

    def warn(self, text: str) -> None:
        """Say something that may spoil the result."""

    def phase(self, name: str) -> None:
        """A training of its own begins: "teacher", "baseline" or "distill", perhaps with a number."""

    def stage(self, name: str, epochs: int, steps_per_epoch: int, epochs_done: int = 0) -> None:
        """A stage of the phase begins, or goes on after ``epochs_done`` epochs of an earlier run."""

    def step(self, terms: Mapping[str, float], step: int, steps: int, images_per_s: float) -> None:
        """``step`` of the epoch's ``steps`` are done; ``terms`` are the loss terms' means over the epoch so far."""

    def epoch(self, record: Mapping[str, Any]) -> None:
        """An epoch is done.

        Args:
            record: "phase", "stage", "epoch" (from 1), "epochs", "lr", "seconds", "images_per_s", "train" (mean of each
                loss term by name, and "total") and "val" (metrics by name, shares in [0, 1], or None).
        """

    def done(self, result: Mapping[str, Any]) -> None:
        """The run is over.

        Args:
            result: what ``result.json`` holds, or what a dry run found ("dry_run": True).
        """
