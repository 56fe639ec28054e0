"""Ragged rows: a sample with more rows counts for more, whatever the batch is split into and by how many processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor, nn

from kdtool.engine.job import Job, Loaded
from kdtool.engine.plan import plan_stages
from kdtool.engine.precision import Precision
from kdtool.engine.step import Step
from kdtool.engine.teaching import FrozenTeachers, Teaching
from kdtool.engine.update import Updater, When
from kdtool.method import Batch, Method, Setup, Terms
from tests.engine import tiny
from tests.sampling import sampled

COUNTS = (1, 5, 2, 3)
"""Supervised rows of each of four samples."""


class Spread(Method):
    """The mean over rows of the squared logits: a term of single rows, as any method's."""

    api = 1

    def loss(self, batch: Batch) -> Terms:
        return {"spread": batch.student.logits.square().mean() + 0.1 * batch.teachers[0].logits.abs().mean()}


class Tokens(nn.Module):
    """Token ids (B, L) with how many of each sample's are supervised: the last ones are rows."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.module = nn.Sequential(nn.Embedding(11, 4), nn.Linear(4, tiny.CLASSES))

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
        assert inputs["ids"].dtype == torch.int64, "token ids are never cast"
        logits_BLK = self.module(inputs["ids"])
        rows = [logits[len(logits) - int(count) :] for logits, count in zip(logits_BLK, inputs["rows"], strict=True)]
        return torch.cat(rows), {}


def whole() -> Loaded:
    """Return four samples with eleven rows; some have no label."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, 11, (4, 6), generator=generator)
    labels = torch.randint(0, tiny.CLASSES, (sum(COUNTS),), generator=generator)
    labels[[1, 2, 7]] = -1
    inputs = {"ids": ids, "rows": torch.tensor(COUNTS)}
    return Loaded(inputs, labels, torch.arange(sum(COUNTS)), 0, COUNTS)


class Once:
    steps = 1

    def __init__(self, loaded: Loaded):
        self.loaded = loaded

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Loaded]:
        yield self.loaded


def gradients(folder: Path, loaded: Loaded, pieces: int, wrapped: Any = None) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Return the gradients and terms of one step in float64."""
    method = Spread(None, Setup({}, [{}], tiny.CLASSES, sum(COUNTS), 4))
    job: Job = tiny.job(
        folder, method, student=Tokens(0), teachers=[Tokens(5)], train_batches=Once(loaded), train={"precision": "fp64"}
    )
    precision = Precision("fp64", job.device)
    step = Step(job.student, method, [], job.objective.hard_loss, precision).double()
    planned = plan_stages(method, 1, None)[0]
    step.stage = planned.stage
    teaching = Teaching(FrozenTeachers(job.teachers, precision), None, lambda text: None)
    updater = Updater(job, step, wrapped(step) if wrapped else step, teaching, planned, lambda updates: None)
    result, _ = updater._backward(loaded, When(0, 0.0, 0), pieces, False, None)
    return [p.grad.clone() for p in step.student.parameters() if p.grad is not None], result.terms


@pytest.mark.parametrize("pieces", [2, 3, 4])
def test_micro_batches_give_the_gradient_of_the_whole(tmp_path: Path, pieces: int) -> None:
    want, terms = gradients(tmp_path, whole(), 1)
    got, parts = gradients(tmp_path, whole(), pieces)
    assert all((a - b).abs().max() < 1e-10 for a, b in zip(want, got, strict=True))
    assert all(abs(float(terms[name] - parts[name])) < 1e-10 for name in terms)


def test_a_mean_of_means_would_be_another() -> None:
    batch = whole()
    rows = Tokens(0).double()(batch.inputs)[0].detach().square().mean(1)
    parts = [Tokens(0).double()(part.inputs)[0].detach().square().mean() for part in batch.split(4)]
    assert abs(float(rows.mean() - torch.stack(parts).mean())) > 1e-3


def _process(rank: int, folder: str, sizes: tuple[int, int]) -> None:
    from torch.nn.parallel import DistributedDataParallel

    os.environ.update(RANK=str(rank), WORLD_SIZE="2", GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    own = whole().parts(sizes)[rank]
    found, terms = gradients(Path(folder), own, 1 + rank * (sizes[1] > 1), DistributedDataParallel)
    total = torch.stack(list(terms.values()))
    torch.distributed.all_reduce(total)
    if rank == 0:
        torch.save({"gradients": found, "terms": total / 2}, f"{folder}/found.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("sizes", sampled([((1, 3),), ((2, 2),)], ((1, 3),)))
def test_two_processes_give_the_gradient_of_one(tmp_path: Path, sizes: tuple[int, int]) -> None:
    mp.spawn(_process, (str(tmp_path), sizes), nprocs=2)
    want, terms = gradients(tmp_path, whole(), 1)
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    assert all((a - b).abs().max() < 1e-10 for a, b in zip(want, found["gradients"], strict=True))
    assert (torch.stack(list(terms.values())) - found["terms"]).abs().max() < 1e-10


def test_parts_keep_rows_with_their_samples() -> None:
    batch = whole()
    parts = batch.parts([1, 3])
    assert [part.samples for part in parts] == [1, 3]
    assert [part.index.tolist() for part in parts] == [[0], list(range(1, 11))]
    assert torch.equal(torch.cat([part.inputs["ids"] for part in parts]), batch.inputs["ids"])
    assert batch.first(2).index.tolist() == list(range(6))
    assert batch.first(9) is batch
