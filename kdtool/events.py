"""What a run tells those who watch it, and how its figure is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any


def several(found: Any) -> list[Any]:
    """Return what a document holds once, several times or not at all as a list, such as a run's teachers."""
    return list(found) if isinstance(found, (list, tuple)) else [found] if found else []


@dataclass(frozen=True)
class Metric:
    """The figure that a task's epochs are selected by, and that tables show first.

    Attributes:
        key: its name among a split's metrics.
        label: as people read it.
        larger_is_better: the direction of selection.
        percent: a share in [0, 1], shown as a percentage and its differences as points; else a plain number.
    """

    key: str = "top1"
    label: str = "top-1"
    larger_is_better: bool = True
    percent: bool = True

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Metric:
        """Return the metric that a ``result.json`` or a ``comparison.json`` names; those of older versions: top-1."""
        return cls(**result.get("metric") or {})

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON keeps it."""
        return asdict(self)

    def at_least_as_good(self, value: float, other: float) -> bool:
        """Tell whether ``value`` is no worse than ``other``."""
        return value >= other if self.larger_is_better else value <= other

    def gain(self, value: float, other: float) -> float:
        """Return by how much ``value`` is better than ``other``: in points of a percentage, else in its own unit."""
        better = value - other if self.larger_is_better else other - value
        return 100 * better if self.percent else better


class Reporter:
    """Hears of a run's events; this base keeps silent. A context, so that a live view ends with the run."""

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Leave the terminal as it was found; nothing is reported afterwards."""

    def about(self, unit: str, metric: Metric) -> None:
        """Of what kind the run is, told once before all else.

        Args:
            unit: what its samples are called, in the plural: "images".
            metric: what its epochs are selected by.
        """

    def note(self, text: str) -> None:
        """Say something worth knowing: a resolved name, a reused teacher."""

    def warn(self, text: str) -> None:
        """Say something that may spoil the result."""

    def outlook(self, parts: Sequence[tuple[str, str, float]]) -> None:
        """What the run will do, told before it does.

        Args:
            parts: in order phase, stage and how much work that is, in a unit of its own.
        """

    def phase(self, name: str) -> None:
        """A training of its own begins: "baseline", "student", or "teacher" with its name."""

    def stage(self, name: str, epochs: int, steps_per_epoch: int, epochs_done: int = 0) -> None:
        """A stage of the phase begins, or goes on after ``epochs_done`` epochs of an earlier run."""

    def step(self, terms: Mapping[str, float], step: int, steps: int, samples_per_s: float) -> None:
        """``step`` of the epoch's ``steps`` are done; ``terms`` are the loss terms' means over the epoch so far."""

    def epoch(self, record: Mapping[str, Any]) -> None:
        """An epoch is done.

        Args:
            record: "phase", "stage", "epoch" (from 1), "epochs", "lr", "seconds", "samples_per_s", "train" (mean of
                each loss term by name, and "total") and "val" (metrics by name, shares in [0, 1], or None).
        """

    def progress(self, what: str, done: int, total: int, figures: Mapping[str, float], per_s: float) -> None:
        """How far something is that is no training, told now and then, and at its end.

        Args:
            what: it is called.
            done, total: of the units that ``about`` named.
            figures: by name, such as {"tokens/s": 431.0}.
            per_s: units a second.
        """

    def done(self, result: Mapping[str, Any]) -> None:
        """The run is over.

        Args:
            result: what ``result.json`` holds, or what a dry run found ("dry_run": True).
        """
