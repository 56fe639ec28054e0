"""Deferred logits: whatever number of rows has its logits at a time, a step's terms and gradients are the same."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor, nn

from kdtool.engine import rows as engine_rows
from kdtool.engine.composition import Combined
from kdtool.engine.evaluate import evaluate
from kdtool.engine.freeze import Frozen
from kdtool.engine.meters import total
from kdtool.engine.plan import plan_stages
from kdtool.engine.precision import Precision
from kdtool.engine.rows import Deferred
from kdtool.engine.step import Step
from kdtool.engine.teaching import FrozenTeachers, Teaching, watched
from kdtool.engine.update import StepResult, Updater, When
from kdtool.losses import softened_kl
from kdtool.method import Batch, Method, Setup, Terms
from tests.engine import tiny
from tests.engine.test_rows import COUNTS, Once, whole

ROWS = sum(COUNTS)


class Later(nn.Module):
    """Token ids -> deferred logits of the supervised rows, by a head tied to the embedding; taps the hidden rows.

    Args:
        seed: of the weights.
        late: defer; else the same logits at once.
    """

    def __init__(self, seed: int, late: bool = True) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.late = late
        self.module = nn.ModuleDict({"embed": nn.Embedding(11, 4), "mix": nn.Linear(4, 4), "head": nn.Linear(4, 11)})
        self.module["head"].weight = self.module["embed"].weight

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Any, dict[str, Any]]:
        hidden_BLD = self.module["mix"](self.module["embed"](inputs["ids"])).tanh()
        rows = [each[len(each) - int(count) :] for each, count in zip(hidden_BLD, inputs["rows"], strict=True)]
        later = Deferred(torch.cat(rows), self.module["head"], tiny.CLASSES)
        taps = {"hidden": torch.cat(rows), "each": [torch.cat(rows)]}
        named = {f"{part}{role}": tap for part in ("", "a/", "b/") for role, tap in taps.items()}
        return (later if self.late else later.whole()), named


class Fit(Method):
    """A loss of logits, and one of taps through a linear layer of its own: row-wise, as any method's."""

    api = 1

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        self.adapt = nn.Linear(4, 4)

    def loss(self, batch: Batch) -> Terms:
        assert isinstance(batch.student.logits, Tensor), "a method never sees deferred logits"
        taught = batch.teachers[0]
        fitted = self.adapt(batch.student.taps["hidden"]) + batch.student.taps["each"][0]
        return {
            "kl": softened_kl(batch.student.logits, taught.logits, 2.0),
            "fit": (fitted - taught.taps["hidden"]).square().mean(),
        }


class Coupled(Fit):
    """Says that its terms couple samples, as means of rows need not."""

    batch = "global"


def setup() -> Setup:
    return Setup({}, [{}], tiny.CLASSES, ROWS, 4)


def updater(folder: Path, late: bool = True, method: str = "fit", wrapped: Any = None, precision: str = "fp64",
            **changes: Any) -> Updater:  # fmt: skip
    """Return what takes a step of the whole of four samples with eleven rows."""
    torch.manual_seed(2)
    made = {"fit": Fit, "global": Coupled}.get(method, Fit)(None, setup())
    if method == "combined":
        made = Combined({"a": made, "b": Fit(None, setup())}, setup())
    student, teacher = Later(0, late), Later(5, late)
    job = tiny.job(
        folder, made, student=student, teachers=[teacher], train_batches=Once(whole()),
        train={"precision": precision, **changes},
    )  # fmt: skip
    arithmetic = Precision(precision, job.device)
    step = Step(job.student, made, [], job.objective.hard_loss, arithmetic).to(arithmetic.dtype)
    planned = plan_stages(made, 1, None)[0]
    step.stage = planned.stage
    teaching = Teaching(FrozenTeachers(job.teachers, arithmetic), None, lambda text: None)
    return Updater(job, step, wrapped(step) if wrapped else step, teaching, planned, lambda updates: None)


def backward(of: Updater, pieces: int = 1, norms: bool = False) -> tuple[dict[str, Tensor], StepResult]:
    """Return the gradients by parameter, and what the step came to."""
    result, _ = of._backward(whole(), When(0, 0.0, 0), pieces, norms, None)
    return {name: p.grad.clone() for name, p in of.step.named_parameters() if p.grad is not None}, result


def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize("method", ["fit", "combined", "global"])
@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("rows", [1, 4, 7, 128])
def test_terms_and_gradients_are_those_of_whole_logits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, pieces: int, method: str
) -> None:
    want, terms = backward(updater(tmp_path, late=False, method=method))
    assert {"student.module.embed.weight", "student.module.mix.weight"} < want.keys()
    assert any(name.endswith("adapt.weight") for name in want)
    monkeypatch.setattr(engine_rows, "CHUNK", rows)
    got, parts = backward(updater(tmp_path, method=method), pieces)
    assert apart(want, got) < 1e-10
    assert apart(terms.terms, {name: value.detach() for name, value in parts.terms.items()}) < 1e-10


def test_only_some_rows_have_their_logits_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_rows, "CHUNK", 4)
    seen: list[int] = []
    one = updater(tmp_path)
    for network in (one.step.student, one.job.teachers[0]):
        network.module["head"].register_forward_hook(lambda *given: seen.append(len(given[2])))
    backward(one)
    assert seen == [4, 4, 4, 4, 3, 3]


def test_half_precision_is_as_near_as_it_is_to_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    want, terms = backward(updater(tmp_path, late=False, precision="bf16"))
    monkeypatch.setattr(engine_rows, "CHUNK", 4)
    got, parts = backward(updater(tmp_path, precision="bf16"))
    assert apart(want, got) < 0.02 * max(float(each.abs().max()) for each in want.values())
    assert apart(terms.terms, parts.terms) < 1e-2


def test_gradient_norms_are_those_of_the_first_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_rows, "CHUNK", 6)
    _, result = backward(updater(tmp_path), norms=True)
    first = whole().parts([2, 2])[0]  # its samples have six rows
    alone = updater(tmp_path, late=False)
    norms = alone._backward(first, When(0, 0.0, 0), 1, True, None)[0].norms
    assert result.norms.keys() == norms.keys() == {"kl", "fit", "task"}
    assert result.norms["kl"] == pytest.approx(float(norms["kl"]), rel=1e-9)
    assert result.norms["fit"] == pytest.approx(float(norms["fit"]), rel=1e-9)


def test_whole_steps_with_clipping_average_and_bad_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_rows, "CHUNK", 3)
    weights = []
    for late in (False, True):
        one = updater(tmp_path, late=late, clip_grad=0.01)
        for at in range(3):
            assert not bool(one(whole(), 0, at, at, 1, False).bad)
        weights.append({name: p.detach() for name, p in one.step.named_parameters()})
    assert apart(*weights) < 1e-9
    bad = updater(tmp_path, on_nonfinite="skip")
    with torch.no_grad():
        bad.step.student.module["mix"].bias.fill_(float("nan"))
    assert bool(bad(whole(), 0, 0, 0, 1, False).bad)


def test_what_a_loss_reads_and_trains_is_seen_through_the_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_rows, "CHUNK", 4)
    one = updater(tmp_path)
    one.step.method.spare = nn.Linear(2, 2)  # type: ignore[union-attr]
    taught, read = watched(one.teaching(whole()))

    def dry_loss() -> Tensor:
        return total(one.step(whole().inputs, whole().labels, whole().index, taught, 0, 0.0)[0])

    Frozen(one.step, one.planned.stage, dry_loss)
    assert read == [{"hidden"}]
    still = {name for name, p in one.step.named_parameters() if not p.requires_grad}
    assert still == {"method.spare.weight", "method.spare.bias"}


def test_a_split_is_measured_a_chunk_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = updater(tmp_path)
    arithmetic, meter = one.precision, one.job.objective.meter
    want = evaluate(Later(0, late=False).double(), Once(whole()), arithmetic, meter())
    monkeypatch.setattr(engine_rows, "CHUNK", 4)
    network, seen = Later(0).double(), []
    network.module["head"].register_forward_hook(lambda *given: seen.append(len(given[2])))
    assert evaluate(network, Once(whole()), arithmetic, meter()) == want
    assert seen == [4, 4, 3]


def _process(rank: int, folder: str) -> None:
    from torch.nn.parallel import DistributedDataParallel

    os.environ.update(RANK=str(rank), WORLD_SIZE="2", GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    engine_rows.CHUNK = 2
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    own = whole().parts((1, 3))[rank]
    found = updater(Path(folder), wrapped=DistributedDataParallel)
    found._backward(replace(own), When(0, 0.0, 0), 1, False, None)
    if rank == 0:
        torch.save({name: p.grad for name, p in found.step.named_parameters() if p.grad is not None}, f"{folder}/found")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_the_gradient_of_one(tmp_path: Path) -> None:
    mp.spawn(_process, (str(tmp_path),), nprocs=2)
    want, _ = backward(updater(tmp_path, late=False))
    assert apart(want, torch.load(tmp_path / "found", weights_only=True)) < 1e-10
