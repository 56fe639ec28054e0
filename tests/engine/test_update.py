"""Steps: micro-batches, steps that are not finite, memory, compiling, and where teachers' outputs come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdtool import Batch, Method, Out, Stage
from kdtool.engine.signals import StopRequest
from kdtool.engine.trainer import NON_FINITE, fit
from kdtool.errors import Interrupted, RunError
from kdtool.events import Reporter
from kdtool.randomness import epoch_order
from kdtool.recipe.rates import Optim
from tests.engine import tiny
from tests.engine.test_trainer import SETUP, Hinted


class Related(Method):
    """Couples samples: Gram matrices of logits and of a tap."""

    api, batch = 1, "global"

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        (teacher,) = batch.teachers
        own, other = batch.student.taps["middle"].flatten(1), teacher.taps["middle"].flatten(1)
        grams = (own @ own.T - other @ other.T).square().mean()
        logits = batch.student.logits @ batch.student.logits.T - teacher.logits @ teacher.logits.T
        return {"grams": 0.01 * grams, "logits": logits.square().mean()}


class Heard(Reporter):
    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.notes: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def note(self, text: str) -> None:
        self.notes.append(text)


def _fit(folder: Path, method: Method | None = None, reporter: Reporter | None = None, **changes: Any) -> Any:
    return fit(tiny.job(folder, method, **changes), reporter or Reporter(), StopRequest())


def _close(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("norm", [True, False], ids=["frozen norms", "no norms"])
def test_a_coupled_loss_over_micro_batches_is_the_whole_one(tmp_path: Path, norm: bool) -> None:
    def weights(accumulate: int) -> dict[str, Tensor]:
        train = {"accumulate": accumulate, "precision": "fp64", "freeze_bn": True}
        student = tiny.Net(norm=norm)
        state: dict[str, Tensor] = _fit(
            tmp_path / str(accumulate), Related(None, SETUP), student=student, train=train
        ).state
        return state

    whole = weights(1)
    _close(whole, weights(4))
    _close(whole, weights(3))


def test_a_coupled_loss_over_micro_batches_takes_every_sample_through_the_norms_once(tmp_path: Path) -> None:
    student = tiny.Net()
    _fit(tmp_path, Related(None, SETUP), student=student, train={"accumulate": 2, "epochs": 1})
    assert student.module["lower"][1].num_batches_tracked == 6 * 2


def test_unlabelled_samples_weigh_the_same_in_any_micro_batch(tmp_path: Path) -> None:
    def weights(accumulate: int) -> dict[str, Tensor]:
        batches = tiny.Batches()
        batches.labels = torch.where(torch.arange(48) % 5 < 3, batches.labels, -1)
        train = {"accumulate": accumulate, "precision": "fp64"}
        job_folder = tmp_path / str(accumulate)
        return _fit(job_folder, student=tiny.Net(norm=False), train=train, train_batches=batches).state  # type: ignore[no-any-return]

    _close(weights(1), weights(4))


class Spoilt(Hinted):
    """A loss that is not finite where a sample of the batch is on a list."""

    bad_samples = (7, 20)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        hit = torch.isin(batch.index, torch.tensor(self.bad_samples, device=batch.index.device)).any() & (
            batch.epoch == 1
        )
        return {"soft": batch.student.logits.square().mean() * torch.where(hit, torch.inf, 1.0)}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lamb"])
def test_the_update_of_a_bad_step_is_withheld(tmp_path: Path, optimizer: str) -> None:
    job = tiny.job(tmp_path, Spoilt(), train={"log_every": 100}, optim=Optim(name=optimizer, lr=0.05))
    student = job.student
    with pytest.raises(RunError, match=r"update was withheld.*nonfinite\.jsonl"):
        fit(job, Reporter(), StopRequest())
    assert all(p.isfinite().all() for p in student.parameters())
    (first, *_) = [json.loads(line) for line in (tmp_path / NON_FINITE).read_text().splitlines()]
    assert {7, 20} & set(first["indices"])
    assert len(first["indices"]) == 8
    assert first["stage"] == "distill"


def test_bad_steps_may_be_skipped(tmp_path: Path) -> None:
    heard = Heard()
    job = tiny.job(tmp_path, Spoilt(), train={"on_nonfinite": "skip", "ema": 0.9})
    fitted = fit(job, heard, StopRequest())
    assert all(v.isfinite().all() for v in fitted.state.values())
    batches = epoch_order(0, 3, 48).reshape(6, 8).tolist()  # of the second epoch of the second stage
    bad = [6 + step for step, batch in enumerate(batches) if set(Spoilt.bad_samples) & set(batch)]
    assert bad
    said = [text for text in heard.warnings if "skipped" in text]
    assert [text.partition(":")[0] for text in said] == [f"stage distill, step {step}" for step in bad]
    assert [json.loads(line)["step"] for line in (tmp_path / NON_FINITE).read_text().splitlines()] == bad
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["skipped"] for record in records] == [0, 0, 0, len(bad)]
    assert all(record["train"]["total"] < float("inf") for record in records)


def test_skipped_steps_keep_running_statistics_and_method_state_clean(tmp_path: Path) -> None:
    class Poison(tiny.Net):
        def forward(self, x: Tensor) -> Any:
            # One image of the set is not finite, as a broken file might be.
            return super().forward(torch.where((x.sum((1, 2, 3)) == total)[:, None, None, None], torch.nan, x))

    batches = tiny.Batches()
    total = batches.images[11].sum((0, 1, 2))
    method, student = Hinted(), Poison()
    _fit(tmp_path, method, student=student, train_batches=batches, train={"on_nonfinite": "skip"})
    assert all(v.isfinite().all() for v in student.state_dict().values())
    assert method.steps == 24 - 4


def test_too_many_bad_steps_end_the_run(tmp_path: Path) -> None:
    class Always(Hinted):
        def loss(self, batch: Batch) -> dict[str, Tensor]:
            return {"soft": batch.student.logits.mean() * float("nan")}

    with pytest.raises(
        RunError, match=r"step number 3 of that kind; train\.max_skipped=2.*or raise train\.max_skipped"
    ):
        _fit(tmp_path, Always(), train={"on_nonfinite": "skip", "max_skipped": 2})


def test_an_epoch_whose_steps_were_all_skipped_has_no_loss(tmp_path: Path) -> None:
    class Later(Hinted):
        def loss(self, batch: Batch) -> dict[str, Tensor]:
            terms = super().loss(batch)
            broken = float("nan") if batch.progress >= 0.5 else 1.0
            return {name: term * broken for name, term in terms.items()}

    _fit(tmp_path, Later(), train={"on_nonfinite": "skip", "max_skipped": 1000})
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    skipped = [record for record in records if record["skipped"] == 6]
    assert skipped
    assert all(record["train"] == {} for record in skipped)
    assert all(record["train"]["total"] > 0 for record in records if not record["skipped"])


class Large(Hinted):
    """Gradients too large for fp16 for as many steps as are asked for: the scale halves at each."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"soft": self.factor * batch.student.logits.square().mean()}


def _skipped(folder: Path) -> list[int]:
    return [json.loads(line)["skipped"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _in_fp16(folder: Path, factor: float, heard: Heard, **more: Any) -> Any:
    return _fit(folder, Large(factor), heard, train={"precision": "fp16", "epochs": 4, "ema": None, **more})


def test_updates_that_fp16_withholds_are_counted_and_warned_of(tmp_path: Path) -> None:
    heard = Heard()
    _in_fp16(tmp_path, 2.0**6, heard)
    counts = _skipped(tmp_path)
    assert sum(counts) >= 3
    assert counts[-1] == 0  # the scale is found
    (said,) = [text for text in heard.warnings if "were withheld" in text]
    assert said.startswith(f"stage distill: {sum(counts[-2:])} of 12 updates were withheld")
    assert not any("nan" in text for text in heard.warnings)
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    quiet = Heard()
    _in_fp16(tmp_path / "quiet", 1.0e-3, quiet)
    assert not any("withheld" in text for text in quiet.warnings)


def test_a_stage_without_any_update_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"nothing was learnt, for 12 of 12 updates were withheld.*bf16"):
        _in_fp16(tmp_path, 1.0e12, Heard())


def test_counts_of_withheld_updates_outlive_a_checkpoint(tmp_path: Path) -> None:
    _in_fp16(tmp_path / "whole", 2.0**6, Heard())
    stop = StopRequest()

    class Stops(Heard):
        def step(self, terms: Any, step: int, steps: int, rate: float) -> None:
            stop.signal = 15 if step == 3 else stop.signal

    job = {"train": {"precision": "fp16", "epochs": 4, "log_every": 1}}
    with pytest.raises(Interrupted):
        fit(tiny.job(tmp_path / "parts", Large(2.0**6), **job), Stops(), stop)
    fit(tiny.job(tmp_path / "parts", Large(2.0**6), **job), Heard(), StopRequest())
    assert _skipped(tmp_path / "parts") == _skipped(tmp_path / "whole")


class Hungry(tiny.Net):
    """A network whose device has room for three samples."""

    def forward(self, x: Tensor) -> Any:
        if len(x) > 3 and self.training:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(x)


@pytest.mark.parametrize("method", [None, Related(None, SETUP)], ids=["sample", "global"])
def test_auto_batch_splits_the_batch_and_keeps_its_size(tmp_path: Path, method: Method | None) -> None:
    heard = Heard()
    train = {"auto_batch": True, "precision": "fp64", "freeze_bn": True, "epochs": 2}
    hungry = _fit(tmp_path / "a", method, heard, student=Hungry(norm=False), train=train)
    plain = _fit(tmp_path / "b", method, student=tiny.Net(norm=False), train={**train, "accumulate": 4})
    _close(hungry.state, plain.state)
    assert any("micro-batches of 2 samples" in text and "Batch norms" in text for text in heard.warnings)


def test_without_auto_batch_the_message_says_what_helps(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no memory for 8 samples at once.*--batch-size.*--auto-batch"):
        _fit(tmp_path, student=Hungry())


def test_one_sample_too_many_is_refused(tmp_path: Path) -> None:
    class Starving(tiny.Net):
        def forward(self, x: Tensor) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(RunError, match="no memory for 1 samples"):
        _fit(tmp_path, student=Starving(), train={"auto_batch": True})


def test_compiled_is_eager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_ = torch.compile
    # The C++ compiler takes half a minute; what is tested here is how the engine calls it.
    monkeypatch.setattr(torch, "compile", lambda module, mode: compile_(module, backend="aot_eager"))
    train = {"precision": "fp64"}
    eager = _fit(tmp_path / "a", Hinted(), train=train)
    torch.manual_seed(0)
    heard = Heard()
    compiled = _fit(tmp_path / "b", Hinted(), heard, train={**train, "compile": "default"})
    assert heard.warnings == []
    assert eager.state.keys() == compiled.state.keys()


class Rising(Hinted):
    """A term that rises with the stage's progress and depends on its epoch."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        rise = min(2 * batch.progress + 0.1, 1.0)
        return {"soft": rise * (batch.student.logits - batch.teachers[0].logits + batch.epoch).square().mean()}


def test_a_stage_is_compiled_once_without_a_break(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[int] = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(1)
        return graph.forward

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module, mode: compile_(module, backend=backend))
    runs = []
    for mode in ("off", "default"):
        torch.manual_seed(0)
        train = {"precision": "fp64", "compile": mode, "epochs": 6}
        runs.append(_fit(tmp_path / mode, Rising(), train=train))
    _close(runs[0].state, runs[1].state)
    assert len(graphs) == 2  # stages


def test_what_cannot_be_compiled_runs_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(module: Any, mode: str) -> Any:
        def call(*_: Any) -> Any:
            raise RuntimeError("no C++ compiler")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    heard = Heard()
    assert _fit(tmp_path, None, heard, train={"compile": "default"}).steps == 24
    assert any("torch.compile failed (no C++ compiler)" in text for text in heard.warnings)


class Stored:
    """Outputs of a teacher, computed beforehand."""

    def __init__(self, roles: set[str], job: Any):
        self.roles = [frozenset(roles)]
        self.asked: list[int] = []
        with torch.no_grad():
            self.logits, taps = job.teachers[0].eval()(job.train_batches.images)
        self.taps = {role: tap for role, tap in taps.items() if role in roles}

    def outputs(self, index: Tensor, view: int, positions: Tensor | None = None) -> list[Out]:
        self.asked.append(view)
        return [Out(self.logits[index], {role: tap[index] for role, tap in self.taps.items()})]


def test_stages_replay_what_is_stored(tmp_path: Path) -> None:
    heard, live = Heard(), tiny.job(tmp_path / "live", Hinted())
    torch.manual_seed(0)
    want = fit(live, Reporter(), StopRequest())
    job = tiny.job(tmp_path / "replayed", Hinted())
    stored = job.replay = Stored(set(), job)
    torch.manual_seed(0)
    got = fit(job, heard, StopRequest())
    assert len(stored.asked) == 2 * 6  # the soft stage alone
    assert any("stage hint: the teacher runs live" in note and "middle" in note for note in heard.notes)
    assert want.steps == got.steps


def test_teachers_are_left_as_they_were(tmp_path: Path) -> None:
    job = tiny.job(tmp_path, Hinted(), train={"precision": "bf16"}, teacher_precisions=["fp32"])
    before = {key: value.clone() for key, value in job.teachers[0].state_dict().items()}
    fit(job, Reporter(), StopRequest())
    assert all(torch.equal(before[key], value) for key, value in job.teachers[0].state_dict().items())


class InTurn(Method):
    """A peer, then the student, each pulled to the other's newest logits."""

    api, online = 1, True

    def __init__(self) -> None:
        super().__init__(None, SETUP)
        self.seen: list[tuple[str, Tensor, Tensor]] = []

    def peer(self, batch: Batch) -> dict[str, Tensor]:
        self.seen.append(("peer", batch.student.logits.detach(), batch.teachers[0].logits.detach()))
        return {"peer": (batch.teachers[0].logits - batch.student.logits.detach()).square().mean()}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {**self.peer(batch), **self.own(batch)}

    def own(self, batch: Batch) -> dict[str, Tensor]:
        self.seen.append(("own", batch.student.logits.detach(), batch.teachers[0].logits.detach()))
        return {"own": (batch.student.logits - batch.teachers[0].logits.detach()).square().mean()}

    def stages(self) -> list[Stage]:
        return [Stage("distill", self.loss, turns=(self.peer, self.own))]


def test_turns_each_update_their_own_network_from_the_newest_outputs(tmp_path: Path) -> None:
    method = InTurn()
    job = tiny.job(
        tmp_path, method, student=tiny.Net(norm=False), teachers=[], peers=[tiny.Net(seed=5, norm=False)],
        train={"epochs": 1}, optim=Optim(name="momentum", lr=0.05, weight_decay=0.01),
    )  # fmt: skip
    fitted = fit(job, Reporter(), StopRequest())
    assert fitted.steps == 6
    turns = method.seen[-12:]
    assert [name for name, _, _ in turns] == ["peer", "own"] * 6
    for (_, student, peer), (_, student_after, peer_after) in zip(turns[::2], turns[1::2], strict=True):
        assert torch.equal(student, student_after)  # the peer's turn leaves the student alone, momentum and decay too
        assert not torch.equal(peer, peer_after)
    (line,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert set(line["train"]) == {"peer", "own", "task", "total"}
