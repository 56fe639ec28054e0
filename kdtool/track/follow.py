"""From a run's events to trackers. One that fails is dropped with a warning: it may not end hours of training."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from kdtool.engine.log import METRICS, read_log
from kdtool.errors import InputError
from kdtool.events import Metric, Reporter
from kdtool.system import strict_json
from kdtool.system.disk import write_whole

FILE = "track.json"
"""In a run's folder: by tracker the name under which it knows the run, so that a resumed one goes on there."""

_CLASSES = {
    "tensorboard": ("kdtool.track.tensorboard", "TensorBoard"),
    "wandb": ("kdtool.track.wandb", "WeightsAndBiases"),
    "mlflow": ("kdtool.track.mlflow", "MLflow"),
}
"""Where each tracker is; its name is also that of the package and the extra that it needs."""


class Tracker(Protocol):
    """One run as a tracker keeps it, opened by ``Class(project, folder, config, known)``.

    Args:
        project: what the tracker files runs under.
        folder: the run's; its name is the run's name.
        config: the resolved recipe.
        known: what ``known`` was in an earlier process of this run; None in the first.

    Attributes:
        known: what the tracker finds this run by.
    """

    known: str

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        """Take figures of an epoch, counted from 1 over the stages of a phase."""

    def finish(self, summary: Mapping[str, float] | None) -> None:
        """Close the run; ``summary`` holds its results, None where it was stopped or failed."""


def check(names: Sequence[str]) -> None:
    """Refuse trackers whose package is missing, before anything is trained.

    Raises:
        InputError: naming the package and how to get it.
    """
    for name in names:
        if find_spec(name) is None:
            raise InputError(
                f"track.to={name} needs the package {name}: pip install 'kdtool[{name}]', or leave it out."
            )


@contextlib.contextmanager
def following(
    names: Sequence[str], project: str, folder: Path, config: Mapping[str, Any], reporter: Reporter
) -> Iterator[Reporter]:
    """Yield a reporter that tells ``reporter`` and the trackers of a run.

    Raises:
        InputError: a tracker cannot be opened.
    """
    if not names:
        yield reporter
        return
    known = _known(folder)
    trackers: dict[str, Tracker] = {}
    for name in names:
        module, class_name = _CLASSES[name]
        try:
            trackers[name] = getattr(import_module(module), class_name)(project, folder, config, known.get(name))
        except Exception as error:  # whatever a service, its settings or the network come up with
            raise InputError(
                f"track.to={name}: it cannot be opened: {' '.join(str(error).split())[:300]}. Its own environment "
                "variables say where it writes (such as WANDB_MODE=offline or MLFLOW_TRACKING_URI); or leave it out."
            ) from error
    write_whole(
        folder / FILE, strict_json.dumps({**known, **{name: each.known for name, each in trackers.items()}}) + "\n"
    )
    follower = Follower(reporter, trackers, folder)
    try:
        yield follower
    finally:
        follower.finish()


def _known(folder: Path) -> dict[str, str]:
    try:
        found = json.loads((folder / FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}


class Follower(Reporter):
    """Passes events on, and turns epochs and results into figures by name."""

    def __init__(self, reporter: Reporter, trackers: dict[str, Tracker], folder: Path):
        self.reporter, self.trackers, self.folder = reporter, trackers, folder
        self.epochs: int | None = None  # done in this phase, None where only its stage says
        self.results: dict[str, float] | None = None

    def close(self) -> None:
        self.reporter.close()

    def about(self, unit: str, metric: Metric) -> None:
        self.reporter.about(unit, metric)

    def note(self, text: str) -> None:
        self.reporter.note(text)

    def warn(self, text: str) -> None:
        self.reporter.warn(text)

    def outlook(self, parts: Sequence[tuple[str, str, float]]) -> None:
        self.reporter.outlook(parts)

    def step(self, terms: Mapping[str, float], step: int, steps: int, samples_per_s: float) -> None:
        self.reporter.step(terms, step, steps, samples_per_s)

    def phase(self, name: str) -> None:
        self.reporter.phase(name)
        log = {"student": self.folder, "baseline": self.folder / "baseline"}.get(name)
        self.epochs = len(read_log(log / METRICS)) if log is not None else None

    def stage(self, name: str, epochs: int, steps_per_epoch: int, epochs_done: int = 0) -> None:
        self.reporter.stage(name, epochs, steps_per_epoch, epochs_done)
        self.epochs = epochs_done if self.epochs is None else self.epochs

    def epoch(self, record: Mapping[str, Any]) -> None:
        self.reporter.epoch(record)
        self.epochs = (self.epochs or 0) + 1
        values, number = figures(record), self.epochs
        self._tell(lambda tracker: tracker.log(values, number))

    def done(self, result: Mapping[str, Any]) -> None:
        self.reporter.done(result)
        self.results = results(result)

    def finish(self) -> None:
        """Close the trackers' runs."""
        self._tell(lambda tracker: tracker.finish(self.results))

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self.trackers.items()):
            try:
                what(tracker)
            except Exception as error:
                del self.trackers[name]
                self.warn(f"{name} failed and is not told any more ({error}); metrics.jsonl has everything.")


def figures(record: Mapping[str, Any]) -> dict[str, float]:
    """Return an epoch's figures: "student/loss/kl", "student/val/top1", "student/lr", ..."""
    phase = record["phase"]
    values = {f"{phase}/loss/{name}": value for name, value in record["train"].items()}
    values |= {f"{phase}/gradient_share/{name}": value for name, value in record.get("gradient_share", {}).items()}
    values |= {f"{phase}/val/{name}": value for name, value in (record.get("val") or {}).items()}
    values |= {f"{phase}/{name}": record[name] for name in ("lr", "seconds", "samples_per_s") if name in record}
    return {name: float(value) for name, value in values.items() if isinstance(value, (int, float))}


def results(result: Mapping[str, Any]) -> dict[str, float]:
    """Return a run's results: "test/student/top1", ... and "gain" ("gain_points" of a percentage)."""
    values: dict[str, Any] = {name: result.get(name) for name in ("gain", "gain_points")}
    for part, found in (result.get("test") or {}).items():
        for number, each in enumerate(found if isinstance(found, list) else [found]):
            name = f"{part}_{number + 1}" if isinstance(found, list) else part
            values |= {f"test/{name}/{metric}": value for metric, value in (each or {}).items()}
    return {name: float(value) for name, value in values.items() if isinstance(value, (int, float))}


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested options as texts by dotted key."""
    found: dict[str, str] = {}
    for key, value in config.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": str(value)}
    return found
