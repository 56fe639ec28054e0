"""Whole steps as one CUDA graph, on a simulated device whose graphs are recorded operations."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from kdtool import Batch, Method
from kdtool.engine import graph
from kdtool.engine.signals import StopRequest
from kdtool.engine.trainer import fit
from kdtool.errors import RunError
from kdtool.events import Reporter
from kdtool.recipe.rates import Optim
from tests.engine import tiny
from tests.engine.test_devices import Banked
from tests.engine.test_trainer import SETUP, Hinted
from tests.recorded import Graph
from tests.sampling import sampled
from tests.simulated import Device, simulated


class Notes(Reporter):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def _fit(folder: Path, device: Device, reporter: Reporter | None = None, **changes: Any) -> Any:
    batches = tiny.Batches(device=device()), tiny.Batches(24, device=device())
    given = {"device": device(), "train_batches": batches[0], "val_batches": batches[1], **changes}
    return fit(tiny.job(folder, **given), reporter or Reporter(), StopRequest())


class Soft(Method):
    """One stage, with a part of its own; counts its steps in a buffer."""

    api = 1

    def __init__(self) -> None:
        super().__init__(None, SETUP)
        self.regressor = nn.Conv2d(4, 4, 1)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        error = self.regressor(batch.student.taps["middle"]) - batch.teachers[0].taps["middle"]
        soft = (batch.student.logits - batch.teachers[0].logits).square().mean()
        return {"hint": error.square().mean(), "soft": soft}

    def after_step(self, batch: Batch) -> None:
        self.steps += 1


class Growing(Soft):
    """A loss whose weight follows the progress, and the epoch."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        grown = batch.progress + 0.1 * batch.epoch
        return {name: grown * term for name, term in super().loss(batch).items()}


KINDS = {"soft": Soft, "hint": Hinted, "coupled": Banked, "growing": Growing}


@pytest.mark.parametrize(
    ("kind", "optimizer", "precision"),
    sampled(
        [
            ("growing", "adamw", "fp32"),
            ("soft", "sgd", "bf16"),
            ("hint", "sgd", "fp32"),
            ("coupled", "sgd", "fp32"),
            ("coupled", "adamw", "bf16"),
            ("soft", "nadam", "fp32"),
            ("soft", "radam", "fp32"),
            ("soft", "adamax", "fp32"),
        ],
        ("growing", "adamw", "fp32"),
    ),
)
def test_replayed_steps_are_steps(tmp_path: Path, kind: str, optimizer: str, precision: str) -> None:
    def run(name: str, warm: int) -> tuple[Any, int]:
        torch.manual_seed(0)
        before = Graph.replays
        train = {"graph": "auto", "epochs": 4, "ema": 0.9, "clip_grad": 1.0, "precision": precision}
        student = tiny.Net(dropout=0.3)
        with simulated() as device, patch.object(graph, "WARM", warm):
            optim = Optim(name=optimizer, lr=0.01)
            found = _fit(tmp_path / name, device, method=KINDS[kind](), train=train, student=student, optim=optim)
        return found, Graph.replays - before

    recorded, replays = run("recorded", 3)
    plain, none = run("plain", 10**9)
    assert none == 0
    # Of six steps an epoch without its first, and of each stage without those before.
    assert replays == (14 if kind == "hint" else 17)
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("recorded", "plain")]
    assert _means(logs[0]) == _means(logs[1])
    for key, tensor in plain.state.items():
        assert torch.equal(recorded.state[key], tensor), key


def _means(log: str) -> list[Any]:
    return [(record["train"], record["val"], record["lr"]) for record in map(json.loads, log.splitlines())]


def test_replayed_steps_are_close_to_those_without_graphs(tmp_path: Path) -> None:
    states = []
    for mode in ("auto", "off"):
        torch.manual_seed(0)
        with simulated() as device:
            train = {"graph": mode, "epochs": 3}
            optim = Optim(name="sgd", lr=0.01)  # adamw makes of a rounding error a step of either sign
            states.append(_fit(tmp_path / mode, device, method=Growing(), train=train, optim=optim).state)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(states[0].values(), states[1].values(), strict=True))


class Counting(Soft):
    """Counts its steps in Python, which a graph would not."""

    seen = 0

    def after_step(self, batch: Batch) -> None:
        self.seen += 1


class Reading(Soft):
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        terms = super().loss(batch)
        return {name: term * (1.0 if float(term) > 0 else 0.5) for name, term in terms.items()}


class Drawing(Soft):
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {name: term * random.random() for name, term in super().loss(batch).items()}


class Rebinding(Soft):
    """Keeps a new tensor at each step, where a graph would read the first one for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.mean: Tensor | None = None

    def after_step(self, batch: Batch) -> None:
        self.mean = batch.student.logits.mean(0)


@pytest.mark.parametrize(
    ("method", "more", "said"),
    [
        pytest.param(Counting, {}, "seen is another object, or number, after a step"),
        pytest.param(Reading, {}, "the host reads what _local_scalar_dense gives"),
        pytest.param(Soft, {"train": {"accumulate": 2}}, "train.accumulate=2"),
        pytest.param(Drawing, {}, "it draws random numbers on the host", marks=pytest.mark.slow),
        pytest.param(Rebinding, {}, "mean is another object", marks=pytest.mark.slow),
        pytest.param(
            Soft, {"train": {"precision": "fp16"}}, "the scale of fp16 is found on the host", marks=pytest.mark.slow
        ),
        pytest.param(Soft, {"train": {"on_nonfinite": "skip"}}, "asks at each step", marks=pytest.mark.slow),
        pytest.param(
            Soft,
            {"optim": Optim(name="lamb", lr=0.01)},
            "optim.name=lamb keeps numbers",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_cannot_be_recorded_says_why_and_goes_on(tmp_path: Path, method: Any, more: Any, said: str) -> None:
    before, reporter = Graph.replays, Notes()
    train = {"graph": "auto", "epochs": 2, **more.get("train", {})}
    with simulated() as device:
        found = _fit(tmp_path, device, reporter, method=method(), **{**more, "train": train})
    assert found.steps == 12
    assert Graph.replays == before
    about = [note for note in reporter.notes if "CUDA graph" in note]
    assert len(about) == 1
    assert said in about[0], about


def test_what_a_device_refuses_to_record_goes_on_without(tmp_path: Path) -> None:
    reporter = Notes()
    torch.manual_seed(0)
    with simulated() as device, patch.object(torch.cuda, "CUDAGraph", side_effect=RuntimeError("CUDA error: no\nmore")):
        got = _fit(tmp_path / "a", device, reporter, method=Soft(), train={"graph": "auto", "epochs": 2})
    torch.manual_seed(0)
    with simulated() as device, patch.object(graph, "WARM", 10**9):
        want = _fit(tmp_path / "b", device, method=Soft(), train={"graph": "auto", "epochs": 2})
    assert any("CUDA error: no; going on without" in note for note in reporter.notes)
    assert all(torch.equal(got.state[key], tensor) for key, tensor in want.state.items())


def test_a_step_that_is_not_finite_is_withheld_inside_the_graph(tmp_path: Path) -> None:
    with simulated() as device:
        batches = tiny.Batches(device=device())
        whole = batches.images.clone()
        reporter = Notes()

        class Spoilt(tiny.Batches):
            def epoch(self, epoch: int, start: int = 0) -> Any:
                for number, batch in enumerate(super().epoch(epoch, start)):
                    if (epoch, number) == (1, 3):
                        batch.inputs = batch.inputs * float("nan")
                    yield batch

        spoilt = Spoilt(device=device())
        train = {"graph": "auto", "epochs": 3}
        on = {"device": device(), "train_batches": spoilt, "val_batches": None}
        job = tiny.job(tmp_path, method=Soft(), train=train, **on)
        with pytest.raises(RunError, match="stage distill, step 9"):
            fit(job, reporter, StopRequest())
        assert all(torch.isfinite(p).all() for p in job.student.parameters())
        assert torch.equal(whole, batches.images)


def test_a_replayed_step_starts_few_operations(tmp_path: Path) -> None:
    """What the host starts for a step: copies, the rates, the average; not the step's own operations."""
    counts = {}
    for mode, warm in (("graph", 3), ("eager", 10**9)):
        with simulated() as device, patch.object(graph, "WARM", warm):
            seen: list[int] = []

            class Counted(tiny.Batches):
                def epoch(self, epoch: int, start: int = 0, seen: Any = seen, device: Any = device) -> Any:
                    for batch in super().epoch(epoch, start):
                        yield batch
                        seen.append(sum(device.operations.values()))

            with patch.object(Graph, "replay", lambda self: None):
                _fit(tmp_path / mode, device, method=Soft(), train={"graph": "auto", "epochs": 2, "log_every": 99},
                     train_batches=Counted(device=device()))  # fmt: skip
        counts[mode] = seen[9] - seen[8]
    assert counts["graph"] <= 25 < counts["eager"] / 3, counts
