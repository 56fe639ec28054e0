"""The conformance kit for tasks finds each kind of fault."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import pytest
from torch import Tensor, nn

from kdtool.errors import InputError
from kdtool.registry import tasks
from kdtool.registry.entries import Entry
from kdtool.testing import TASK_CHECKS, CheckError, check_task, parametrize_with_task_checks

sys.path.insert(0, str(Path(__file__).with_name("example_task")))

from kdtool_table.task import Data, Table


@dataclass
class Bare(Data):
    unexplained: int = 3


class Undocumented(Table):
    """An option has no help."""

    Data = Bare


class OnePrint(Table):
    """Every table has the same fingerprint."""

    def open(self, recipe: Any) -> Any:
        return dataclasses.replace(super().open(recipe), fingerprint="the same")


class Changed:
    """Batches that differ from those of the base."""

    def __init__(self, base: Any):
        self.base = base

    def __getattr__(self, name: str) -> Any:
        return getattr(self.base, name)


class ShortBatches(Changed):
    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        yield from list(self.base.epoch(epoch, start))[:-1]


class LosesTheLast(Table):
    """Evaluation does not see the last batch."""

    def batches(self, data: Any, split: Any, recipe: Any, networks: Sequence[Any], reading: Any) -> Any:
        found = super().batches(data, split, recipe, networks, reading)
        return found if reading.train else ShortBatches(found)


class CountsWorkers(Table):
    """Another order with workers."""

    def batches(self, data: Any, split: Any, recipe: Any, networks: Sequence[Any], reading: Any) -> Any:
        reading = dataclasses.replace(reading, seed=recipe.data.workers)
        return super().batches(data, split, recipe, networks, reading)


class EveryProcessReadsAll(Table):
    """Processes share nothing."""

    def batches(self, data: Any, split: Any, recipe: Any, networks: Sequence[Any], reading: Any) -> Any:
        return super().batches(data, split, recipe, networks, dataclasses.replace(reading, part=(0, 1)))


class Forgetful(Changed):
    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        yield from self.base.epoch(epoch)


class StartsOver(Table):
    """An epoch always begins at its first batch."""

    def batches(self, data: Any, split: Any, recipe: Any, networks: Sequence[Any], reading: Any) -> Any:
        return Forgetful(super().batches(data, split, recipe, networks, reading))


class Centred(nn.Sequential):
    """Takes the mean of the batch from every sample."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs - inputs.mean(0))


class SeesItsBatch(Table):
    """A sample's outputs depend on the others."""

    def student(self, recipe: Any, data: Any) -> Any:
        built = super().student(recipe, data)
        return dataclasses.replace(built, module=Centred(*built.module))


class Half(nn.Module):
    """Gives every other row."""

    def __init__(self, network: Any):
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Any:
        logits, taps = self.network(inputs)
        return logits[::2], taps


class LosesRows(Table):
    """An adapted teacher gives fewer rows."""

    def adapt(self, network: Any, teacher: Any, student: Any) -> Any:
        return Half(network)


class Objective(Changed):
    def meter(self) -> Any:
        meter = self.base.meter()
        meter.merge = lambda states: None
        return meter


class MergesNothing(Table):
    """Each process keeps what it saw itself."""

    def objective(self, data: Any, label_smoothing: float) -> Any:
        return Objective(super().objective(data, label_smoothing))


class TakesNoneForAClass(Table):
    """A row without a label counts as one of the first class."""

    def objective(self, data: Any, label_smoothing: float) -> Any:
        base = super().objective(data, label_smoothing)
        found = Changed(base)
        found.hard_loss = lambda logits, labels: base.hard_loss(logits, labels.clamp(min=0))  # type: ignore[attr-defined]
        return found


class LoadsNothing(Table):
    """Saved weights do not come back."""

    def load(self, built: Any, folder: Path) -> None:
        pass


class NeedsKdtool(Table):
    """What it ships opens with kdtool only."""

    def how_to_open(self, built: Any, folder: Path) -> str:
        return "kdtool.__version__"


class OpensOthers(Table):
    """What it says opens a network with other weights."""

    def how_to_open(self, built: Any, folder: Path) -> str:
        return super().how_to_open(built, folder).split(";")[0]


class Remembers(Table):
    """The loss grows with the number of its calls, which no checkpoint holds."""

    calls = 0

    def objective(self, data: Any, label_smoothing: float) -> Any:
        base = super().objective(data, label_smoothing)
        found = Changed(base)

        def hard_loss(logits: Tensor, labels: Tensor) -> Tensor:
            Remembers.calls += 1
            return base.hard_loss(logits, labels) * (1 + Remembers.calls)

        found.hard_loss = hard_loss  # type: ignore[attr-defined]
        return found


class Uncacheable(Changed):
    def __getattr__(self, name: str) -> Any:
        if name == "view":
            raise AttributeError(name)
        return super().__getattr__(name)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        yield from self.base.epoch(epoch, start)


class HasNoViews(Table):
    """Samples cannot be asked for by their positions."""

    def batches(self, data: Any, split: Any, recipe: Any, networks: Sequence[Any], reading: Any) -> Any:
        return Uncacheable(super().batches(data, split, recipe, networks, reading))


class ClaimsViews(Table):
    """Declares a view that its batches do not have."""

    views: ClassVar[dict[str, str]] = {"strong": "changed more"}


class ClaimsLayers(Table):
    """Says that its students may ship with other layers, and forgets these."""

    ships_layers = True


FAULTS = [
    ("contract", Undocumented, "data.unexplained: no help"),
    ("fingerprint", OnePrint, "fingerprint"),
    ("batches", LosesTheLast, "every row once"),
    ("workers", CountsWorkers, "data.workers"),
    ("processes", EveryProcessReadsAll, "two processes"),
    ("epochs", StartsOver, "from batch 1 on"),
    ("company", SeesItsBatch, "another size"),
    ("split", SeesItsBatch, "into its samples"),
    ("adapt", LosesRows, "4 rows for 8"),
    ("meter", MergesNothing, "merged"),
    ("missing-labels", TakesNoneForAClass, "without a label"),
    ("state", LoadsNothing, "other outputs"),
    ("open", NeedsKdtool, "kdtool was imported"),
    ("open", OpensOthers, "other weights"),
    ("views", ClaimsViews, "no further views"),
    ("layers", ClaimsLayers, "has not the layers"),
    ("resume", Remembers, "other weights"),
    ("replay", HasNoViews, "view"),
]


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Announce the faulty tasks as an installed package would."""
    own = tasks.entries()
    classes = {cls for _, cls, _ in FAULTS} | {Table}
    entries = tuple(_entry(cls) for cls in classes)
    monkeypatch.setattr(tasks, "entries", lambda: (*own, *entries))


def _entry(cls: type[Table]) -> Entry[Any]:
    cls.name = cls.__name__.lower()
    point = EntryPoint(cls.name, f"{cls.__module__}:{cls.__qualname__}", tasks.GROUP)
    return Entry("task", cls.name, "faulty", "1", point, tasks.check)


@pytest.mark.parametrize(("name", "cls", "message"), FAULTS, ids=[f"{name}-{cls.__name__}" for name, cls, _ in FAULTS])
def test_each_fault_is_found(name: str, cls: type[Table], message: str) -> None:
    (found,) = (each for each in TASK_CHECKS if each.name == name)
    (test,) = (p for p in parametrize_with_task_checks(cls).args[1] if p.id.endswith(f"-{name}"))
    with pytest.raises(Exception, match=message):
        test.values[0]()
    assert found.promise


def test_every_check_has_a_fault_that_it_finds() -> None:
    assert {name for name, _, _ in FAULTS} == {check.name for check in TASK_CHECKS}


@pytest.mark.slow
def test_a_declared_fault_has_to_be_one() -> None:
    with pytest.raises(InputError, match="there is no check 'metre'"):
        check_task("table", expected_failures={"metre": "?"})
    with pytest.raises(CheckError, match="declared to fail"):
        check_task(Table, expected_failures={each.name: "it does not" for each in TASK_CHECKS})


def test_a_task_that_is_not_installed_cannot_be_checked() -> None:
    with pytest.raises(InputError, match="there is no task 'tabel'"):
        check_task("tabel")
