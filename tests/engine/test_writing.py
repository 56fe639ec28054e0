"""Batches that a student writes: who writes which, what a method is told of it, and what a checkpoint has of it."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdtool.engine.composition import build_method
from kdtool.engine.job import OWN, Beside, Job, Loaded
from kdtool.engine.precision import Precision
from kdtool.engine.signals import StopRequest
from kdtool.engine.teaching import FrozenTeachers, Teaching
from kdtool.engine.trainer import fit
from kdtool.engine.writing import Writing
from kdtool.errors import InputError, Interrupted
from kdtool.events import Reporter
from kdtool.method import Batch, Drawn, Method, Setup, Stage
from kdtool.randomness import uniforms
from tests.engine import tiny

CPU = torch.device("cpu")


class Pictures:
    """Writes the given images, shifted, as what it "draws" a class for; keeps images."""

    def __init__(self, share: float | None = None):
        self.share, self.temperature = share, 0.8
        self.images = torch.zeros(0, 3, 8, 8)
        self.calls: list[tuple[str, int]] = []
        self.beside: list[Beside | None] = []

    @property
    def count(self) -> int:
        return len(self.images)

    def __call__(
        self, network: nn.Module, loaded: Loaded, stage: str, step: int, beside: Beside | None = None, keep: int = 0
    ) -> Loaded:
        self.calls.append(("new", step))
        self.beside.append(beside)
        shift = uniforms(torch.arange(len(loaded.inputs)), stage, 0, step).float()
        images = (loaded.inputs + 0.1 * shift.view(-1, 1, 1, 1)).to(next(network.parameters()).dtype)
        if keep:
            self.images = torch.cat([self.images, images])[-keep:]
        return self._of(images, loaded, network)

    def _of(self, images: Tensor, loaded: Loaded, network: nn.Module) -> Loaded:
        classes = network(images)[0].argmax(1)
        return Loaded(images, torch.full_like(loaded.labels, -1), loaded.index, OWN, drawn={"class": classes})

    def again(self, loaded: Loaded, stage: str, step: int) -> Loaded:
        self.calls.append(("again", step))
        order = uniforms(torch.arange(self.count), stage, 0, step).argsort()[: len(loaded.index)]
        return Loaded(self.images[order], torch.full_like(loaded.labels, -1), loaded.index, OWN)

    def taught(self, teacher: nn.Module, loaded: Loaded) -> Loaded:
        raise AssertionError("nobody asked")

    def state_dict(self) -> dict[str, Any]:
        return {"images": self.images}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.images = state["images"]


class Growing(Method):
    """Its share grows by what its validations say; asks for the rest of ``Stage`` by keyword."""

    api = 1

    def __init__(self, start: float = 0.0, **stage: Any):
        super().__init__(None, Setup({}, [{}], tiny.CLASSES, 48, 8))
        self.start, self.stage, self.seen = start, stage, []
        self.register_buffer("validations", torch.zeros((), dtype=torch.int64))

    def share(self) -> float:
        return min(1.0, self.start + 0.25 * int(self.validations))

    def after_validation(self, metrics: Mapping[str, Any]) -> None:
        assert "top1" in metrics
        self.validations += 1

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        self.seen.append(batch)
        worth = batch.drawn.get("worth", torch.ones(len(batch.index)))
        gap = (batch.student.logits - batch.teachers[0].logits).square().mean(1)
        return {"gap": (worth * gap).mean()}

    def stages(self) -> list[Stage]:
        return [Stage("distill", self.loss, **{"on_policy": self.share, **self.stage})]


def test_a_share_is_asked_for_at_each_step_and_follows_from_validation(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = []

    class Look(Reporter):
        def epoch(self, record: dict[str, Any]) -> None:
            records.append(record)

    method, writer = Growing(), Pictures()
    fit(tiny.job(tmp_path, method, writer=writer), Look(), StopRequest())
    assert [record["on_policy"] for record in records] == [0.25, 0.5, 0.75, 1.0]  # validated before the first step
    by_epoch = [sum(epoch * 6 <= step < epoch * 6 + 6 for _, step in writer.calls) for epoch in range(4)]
    number = [float(uniforms(torch.tensor([step]), "on policy, distill", 0, 0)) for step in range(24)]
    shares = [0.25, 0.5, 0.75, 1.0]
    assert by_epoch == [sum(each < share for each in number[6 * i : 6 * i + 6]) for i, share in enumerate(shares)]
    assert by_epoch[3] == 6


def test_a_given_share_holds_and_needs_no_validation(tmp_path: Path) -> None:
    method, writer = Growing(), Pictures(share=1.0)
    fit(tiny.job(tmp_path, method, writer=writer, val_batches=None), Reporter(), StopRequest())
    assert len(writer.calls) == 24
    assert method.validations == 0
    with pytest.raises(InputError, match=r"data\.val_fraction"):
        fit(tiny.job(tmp_path / "none", Growing(), writer=Pictures(), val_batches=None), Reporter(), StopRequest())


def test_what_was_written_is_used_again_ever_more(tmp_path: Path) -> None:
    writer = Pictures()
    fit(tiny.job(tmp_path, Growing(start=1.0, replay=12), writer=writer), Reporter(), StopRequest())
    kinds = {step: kind for kind, step in writer.calls}
    assert writer.count == 12
    assert kinds[0] == kinds[1] == "new"  # until there are enough
    for step in range(2, 24):
        number = float(uniforms(torch.tensor([step]), "on policy, distill", 0, 0))
        assert kinds[step] == ("again" if number >= 1 - step / 24 else "new")
    assert {"again", "new"} == set(kinds.values())


def test_a_run_that_was_stopped_has_share_and_samples_where_they_were(tmp_path: Path) -> None:
    class StopAt(Reporter):
        def __init__(self, stop: StopRequest, left: int):
            super().__init__()
            self.stop, self.left = stop, left

        def step(self, *_: Any, **__: Any) -> None:
            self.left -= 1
            if self.left == 0:
                self.stop.signal = signal.SIGTERM

    def job(folder: Path) -> Job:
        method = Growing(start=0.5, replay=16)
        return tiny.job(tmp_path / folder, method, writer=Pictures(), train={"epochs": 4, "log_every": 1})

    whole = fit(job(Path("whole")), Reporter(), StopRequest())
    for steps in (3, 9, 17, 23):
        folder, stop = Path(f"cut-{steps}"), StopRequest()
        with pytest.raises(Interrupted):
            fit(job(folder), StopAt(stop, steps), stop)
        again = fit(job(folder), Reporter(), StopRequest())
        assert all(torch.equal(again.last_state[name], each) for name, each in whole.last_state.items())


def credit(drawn: Drawn) -> dict[str, Tensor]:
    return {"worth": drawn.student - drawn.teachers[0] + drawn.drawn + drawn.classes}


def test_credit_is_given_before_a_batch_is_taken_apart(tmp_path: Path) -> None:
    def run(name: str, pieces: int) -> tuple[Growing, Any]:
        method = Growing(on_policy=1.0, credit=credit, teacher_mix=0.3)
        job = tiny.job(
            tmp_path / name, method, writer=Pictures(), student=tiny.Net(norm=False),
            teachers=[tiny.Net(seed=5, norm=False)], train={"epochs": 1, "accumulate": pieces, "precision": "fp64"},
        )  # fmt: skip
        return method, fit(job, Reporter(), StopRequest())

    (one, whole), (two, parts) = run("whole", 1), run("parts", 2)
    for name, each in whole.last_state.items():
        torch.testing.assert_close(parts.last_state[name], each, rtol=1e-9, atol=1e-12)
    first = next(batch for batch in one.seen if batch.drawn)
    student, teacher = first.student.logits.detach(), first.teachers[0].logits
    mixed = 0.7 * (student / 0.8).softmax(1) + 0.3 * (teacher / 0.8).softmax(1)
    classes = first.drawn["class"]
    each = [log.gather(1, classes[:, None]).squeeze(1) for log in
            (student.log_softmax(1), teacher.log_softmax(1), mixed.log())]  # fmt: skip
    torch.testing.assert_close(first.drawn["worth"], each[0] - each[1] + each[2] + classes, rtol=1e-6, atol=1e-6)
    halves = [batch.drawn["worth"] for batch in two.seen if batch.drawn][:2]
    torch.testing.assert_close(torch.cat(halves), first.drawn["worth"], rtol=1e-9, atol=1e-12)


def test_a_teacher_has_its_say_in_its_own_arithmetic(tmp_path: Path) -> None:
    writer = Pictures()
    job = tiny.job(tmp_path, Growing(on_policy=1.0, teacher_mix=0.3), writer=writer)
    assert job.method is not None
    (stage,) = job.method.stages()
    precision = Precision("bf16", CPU)
    teaching = Teaching(FrozenTeachers(job.teachers, Precision("fp32", CPU)), None, lambda _: None)
    Writing(job, stage, teaching, precision)(job.student, next(job.train_batches.epoch(0)), 0, 0.0)
    (beside,) = writer.beside
    assert beside is not None
    assert beside.share == 0.3
    with precision.forward(), beside.context():
        assert beside.teacher(torch.zeros(1, 3, 8, 8))[0].dtype == torch.float32
    with precision.forward(), nullcontext():
        assert beside.teacher(torch.zeros(1, 3, 8, 8))[0].dtype == torch.bfloat16


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="leave one of them out"):
        fit(tiny.job(tmp_path, Growing(replay=3, credit=credit), writer=Pictures()), Reporter(), StopRequest())
    with pytest.raises(InputError, match="writes none"):
        fit(tiny.job(tmp_path, Growing(start=0.0)), Reporter(), StopRequest())


def test_of_joined_methods_each_has_its_own_credit_and_the_larger_share_counts(tmp_path: Path) -> None:
    class One(Growing):
        def __init__(self, cfg: Any, setup: Setup):
            super().__init__(0.0, credit=credit, teacher_mix=0.3)

    class Other(Growing):
        def __init__(self, cfg: Any, setup: Setup):
            super().__init__(on_policy=0.4)

    method = build_method({"one": One, "other": Other}, {"one": None, "other": None}, Setup({}, [{}], 3, 48, 8))
    assert method is not None
    (stage,) = method.stages()
    assert callable(stage.on_policy)
    assert stage.on_policy() == 0.4
    for _ in range(3):
        method.after_validation({"top1": 0.0})
    assert stage.on_policy() == 0.75
    fit(tiny.job(tmp_path, method, writer=Pictures(), train={"epochs": 1}), Reporter(), StopRequest())
    one, other = ([batch for batch in part.seen if batch.drawn] for part in method.parts.values())  # type: ignore[attr-defined]
    assert one
    assert all(set(batch.drawn) == {"class", "worth"} for batch in one)
    assert all(set(batch.drawn) == {"class"} for batch in other)
