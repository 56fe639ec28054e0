"""The loop, seen from outside: what it trains, what it leaves alone, and that a stopped run is the same run."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdtool import Batch, Method, Setup, Stage
from kdtool.engine.checkpoint import checkpoints
from kdtool.engine.signals import StopRequest
from kdtool.engine.trainer import fit
from kdtool.errors import InputError, Interrupted, RunError
from kdtool.events import Metric, Reporter
from kdtool.tasks.common.classification import Classification
from tests.engine import tiny

SETUP = Setup(
    student={"middle": (4, 8, 8)}, teachers=[{"middle": (4, 8, 8)}], num_classes=3, num_samples=48, batch_size=8
)


class Hinted(Method):
    """A hint stage below the middle, then a soft stage; counts its steps in a buffer."""

    api = 1

    def __init__(self, **changes: Any):
        super().__init__(None, SETUP)
        self.regressor = nn.Conv2d(4, 4, 1)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.changes = changes

    def hint(self, batch: Batch) -> dict[str, Tensor]:
        error = self.regressor(batch.student.taps["middle"]) - batch.teachers[0].taps["middle"]
        return {"hint": error.square().mean()}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"soft": (batch.student.logits - batch.teachers[0].logits).square().mean()}

    def stages(self) -> list[Stage]:
        return [Stage("hint", self.hint, epochs=2, task_weight=0.0, **self.changes), Stage("distill", self.loss)]

    def after_step(self, batch: Batch) -> None:
        self.steps += 1


class StopAfter(Reporter):
    """Asks for a stop once so many steps were reported."""

    def __init__(self, stop: StopRequest, steps: int):
        super().__init__()
        self.stop, self.left = stop, steps

    def step(self, *_: Any, **__: Any) -> None:
        self.left -= 1
        if self.left == 0:
            self.stop.signal = signal.SIGTERM


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_hard_labels_are_learnt(tmp_path: Path) -> None:
    fitted = fit(tiny.job(tmp_path, train={"epochs": 12}), Reporter(), StopRequest())
    assert fitted.best["val"]["top1"] > 0.9
    assert fitted.steps == 12 * 6
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, 13))
    assert lines[-1]["train"]["task"] < lines[0]["train"]["task"]


def test_what_a_stage_trains_moves_and_nothing_else(tmp_path: Path) -> None:
    method, seen = Hinted(), {}

    class Look(Reporter):
        def epoch(self, record: dict[str, Any]) -> None:
            seen[record["stage"], record["epoch"]] = {k: v.clone() for k, v in student.state_dict().items()}

    job = tiny.job(tmp_path, method)
    student = job.student
    before = {k: v.clone() for k, v in student.state_dict().items()}
    teacher = {k: v.clone() for k, v in job.teachers[0].state_dict().items()}
    fit(job, Look(), StopRequest())
    hinted, final = seen["hint", 2], seen["distill", 2]
    for name in before:
        lower = name.startswith("module.lower")
        assert torch.equal(before[name], hinted[name]) != lower, f"{name} after the hint stage"
        assert not torch.equal(hinted[name], final[name]), f"{name} after distilling"
    assert _same(teacher, job.teachers[0].state_dict())
    assert method.steps == 24


def test_a_stage_without_the_student_comes_on_top_of_the_budget(tmp_path: Path) -> None:
    class Own(Hinted):
        def hint(self, batch: Batch) -> dict[str, Tensor]:
            teacher = batch.teachers[0].taps["middle"]
            return {"own": (self.regressor(teacher) - teacher).square().mean()}

    job = tiny.job(tmp_path, Own(trains=("method",)))
    fitted = fit(job, Reporter(), StopRequest())
    assert fitted.steps == 4 * 6
    # The student sees the same epochs, and so the same order, as it would alone.
    epochs = {epoch for epoch, _ in job.train_batches.served}
    assert epochs == {0, 1, 2, 3}


@pytest.mark.parametrize("stop_after", [1, 5, 6, 7, 12, 17, 23, 24])
@pytest.mark.parametrize("changes", [{}, {"ema": 0.9, "accumulate": 2, "clip_grad": 1.0}], ids=["plain", "ema"])
def test_a_stopped_run_is_the_same_run(tmp_path: Path, stop_after: int, changes: dict[str, Any]) -> None:
    train = {"log_every": 1, **changes}

    def job(folder: str) -> Any:
        return tiny.job(tmp_path / folder, Hinted(), student=tiny.Net(dropout=0.3), train=train)

    torch.manual_seed(0)
    whole = fit(job("whole"), Reporter(), StopRequest())
    torch.manual_seed(0)
    stop = StopRequest()
    with pytest.raises(Interrupted) as stopped:
        fit(job("parts"), StopAfter(stop, stop_after), stop)
    assert stopped.value.exit_code == 143
    torch.manual_seed(99)  # the method's fresh weights differ: all must come from the checkpoint
    parts = fit(job("parts"), Reporter(), StopRequest())
    assert _same(whole.state, parts.state)
    assert (whole.best["epoch"], whole.last, whole.steps) == (parts.best["epoch"], parts.last, parts.steps)

    def means(folder: str) -> list[Any]:
        lines = (tmp_path / folder / "metrics.jsonl").read_text().splitlines()
        return [{k: v for k, v in json.loads(line).items() if k not in ("seconds", "samples_per_s")} for line in lines]

    assert means("whole") == means("parts")


class Told(Classification):
    """An objective that finds after each epoch what it is told to."""

    def __init__(self, *values: float, metric: Metric | None = None):
        super().__init__(tiny.CLASSES, metric=metric)
        self.values = iter(values)

    def meter(self) -> Any:
        meter, key = super().meter(), self.metric.key
        meter.metrics = lambda: {key: next(self.values)}  # type: ignore[method-assign]
        return meter


@pytest.mark.parametrize(
    ("values", "metric", "select", "best"),
    [
        # The first stage's two epochs do not compete; of equals the later one.
        ((1.0, 1.0, 0.2, 0.9, 0.9, 0.1), None, "best", 5),
        ((1.0, 1.0, 0.9, 0.8, 0.7, 0.6), None, "best", 3),
        ((0.0, 0.0, 3.0, 1.0, 2.0, 2.0), Metric("nll", "nll", larger_is_better=False), "best", 4),
        ((1.0, 1.0, 0.2, 0.9, 0.9, 0.1), None, "last", 6),
    ],
)
def test_the_best_epoch_is_the_best_of_the_last_stage(
    tmp_path: Path, values: tuple[float, ...], metric: Metric | None, select: str, best: int
) -> None:
    states: list[dict[str, Tensor]] = []

    class Judged(Hinted):
        def stages(self) -> list[Stage]:  # with hard labels from the start, so that each epoch is validated
            return [Stage("hint", self.hint, epochs=2), Stage("distill", self.loss)]

    class Look(Reporter):
        def epoch(self, record: dict[str, Any]) -> None:
            states.append({k: v.clone() for k, v in student.module.state_dict().items()})

    told = Told(*values, metric=metric)
    job = tiny.job(tmp_path, Judged(), objective=told, train={"epochs": 6, "select": select})
    student: Any = job.student
    fitted = fit(job, Look(), StopRequest())
    assert fitted.best == {"epoch": best, "val": {told.metric.key: values[best - 1]}}
    assert fitted.last == {"epoch": 6, "val": {told.metric.key: values[5]}}
    assert _same(fitted.state, states[best - 1])
    assert _same(fitted.last_state, states[5])
    assert not _same(states[best - 1], states[best - 2])


def test_patience_ends_the_last_stage_and_a_stopped_run_waits_as_long(tmp_path: Path) -> None:
    values = (0.1, 0.2, 0.9, 0.8, 0.9, 0.7, 0.6, 1.0)  # of equals the later one is better
    train = {"epochs": 8, "patience": 2}

    def job(folder: str, seen: int = 0) -> Any:
        return tiny.job(tmp_path / folder, objective=Told(*values[seen:]), train=train)

    whole = fit(job("whole"), Reporter(), StopRequest())
    assert (whole.best["epoch"], whole.last["epoch"]) == (5, 7)
    stop = StopRequest()

    class Stops(Reporter):
        def epoch(self, record: dict[str, Any]) -> None:
            stop.signal = 15 if record["epoch"] == 6 else None

    with pytest.raises(Interrupted):
        fit(job("parts"), Stops(), stop)
    parts = fit(job("parts", seen=6), Reporter(), StopRequest())
    assert (parts.best["epoch"], parts.last["epoch"]) == (5, 7)
    assert _same(whole.state, parts.state)
    assert _same(whole.last_state, parts.last_state)
    again = fit(job("whole", seen=8), Reporter(), StopRequest())  # finished: nothing is trained or judged
    assert _same(whole.state, again.state)


def test_a_finished_run_trains_no_more(tmp_path: Path) -> None:
    first = fit(tiny.job(tmp_path), Reporter(), StopRequest())
    job = tiny.job(tmp_path)
    again = fit(job, Reporter(), StopRequest())
    assert _same(first.state, again.state)
    assert job.train_batches.served == []


def test_a_torn_checkpoint_is_passed_over(tmp_path: Path) -> None:
    whole = fit(tiny.job(tmp_path / "a"), Reporter(), StopRequest())
    fit(tiny.job(tmp_path / "b"), Reporter(), StopRequest())
    newest = checkpoints(tmp_path / "b" / "checkpoints")[0] / "tensors.safetensors"
    newest.write_bytes(newest.read_bytes()[:-7])
    warnings: list[str] = []

    class Hear(Reporter):
        def warn(self, text: str) -> None:
            warnings.append(text)

    again = fit(tiny.job(tmp_path / "b"), Hear(), StopRequest())
    assert _same(whole.state, again.state)
    assert len(warnings) == 1
    assert "torn" in warnings[0]


def test_another_recipes_checkpoints_are_refused(tmp_path: Path) -> None:
    fit(tiny.job(tmp_path), Reporter(), StopRequest())
    with pytest.raises(InputError, match="another recipe"):
        fit(tiny.job(tmp_path, key="other"), Reporter(), StopRequest())


def test_micro_batches_sum_to_the_global_batch(tmp_path: Path) -> None:
    def weights(accumulate: int) -> dict[str, Tensor]:
        train = {"accumulate": accumulate, "precision": "fp64"}
        job = tiny.job(tmp_path / str(accumulate), student=tiny.Net(norm=False), train=train)
        return fit(job, Reporter(), StopRequest()).state

    one, four = weights(1), weights(4)
    for name in one:
        torch.testing.assert_close(one[name], four[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp64"])
def test_precisions_train(tmp_path: Path, precision: str) -> None:
    fitted = fit(tiny.job(tmp_path, Hinted(), train={"precision": precision}), Reporter(), StopRequest())
    assert fitted.best["val"]["top1"] > 0.5


def test_losses_are_computed_in_full_precision_under_autocast(tmp_path: Path) -> None:
    kinds = set()

    class Look(Hinted):
        def loss(self, batch: Batch) -> dict[str, Tensor]:
            product = batch.student.logits @ batch.teachers[0].logits.T
            kinds.update({product.dtype, batch.student.taps["middle"].dtype})
            return super().loss(batch)

    fit(tiny.job(tmp_path, Look(), train={"precision": "bf16"}), Reporter(), StopRequest())
    assert kinds == {torch.float32}


@pytest.mark.parametrize("bad_step", [0, 5, 9])
def test_a_loss_that_is_not_finite_names_term_stage_and_step(tmp_path: Path, bad_step: int) -> None:
    class Bad(Hinted):
        def loss(self, batch: Batch) -> dict[str, Tensor]:
            here = round(batch.progress * 12) >= bad_step and self.training
            return {
                "good": batch.student.logits.mean(),
                "bad": batch.student.logits.mean() * (torch.nan if here else 1),
            }

    with pytest.raises(RunError, match=rf"term bad.*stage distill, step {bad_step} "):
        fit(tiny.job(tmp_path, Bad()), Reporter(), StopRequest())


def test_a_loss_that_trains_nothing_is_refused(tmp_path: Path) -> None:
    class Detached(Hinted):
        def hint(self, batch: Batch) -> dict[str, Tensor]:
            return {"hint": batch.student.taps["middle"].detach().mean()}

    with pytest.raises(InputError, match="stage 'hint'"):
        fit(tiny.job(tmp_path, Detached()), Reporter(), StopRequest())


def test_peers_train_along(tmp_path: Path) -> None:
    class Mutual(Method):
        api, online = 1, True

        def loss(self, batch: Batch) -> dict[str, Tensor]:
            (peer,) = batch.teachers
            apart = (batch.student.logits - peer.logits).square().mean()
            return {"apart": apart, "peer": batch.task_loss(peer.logits)}

    peer = tiny.Net(seed=7)
    before = {k: v.clone() for k, v in peer.state_dict().items()}
    fit(tiny.job(tmp_path, Mutual(None, SETUP), teachers=[], peers=[peer]), Reporter(), StopRequest())
    assert all(not torch.equal(before[k], v) for k, v in peer.state_dict().items())
