"""timm's optimizers on a simulated card: which make the host wait for a step, and what one that is not finite does."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from timm.optim import get_optimizer_class, list_optimizers

from kdtool.engine.checkpoint import checkpoints, load_checkpoint
from kdtool.engine.optim import build_optimizer
from kdtool.engine.signals import StopRequest
from kdtool.engine.trainer import NON_FINITE, fit
from kdtool.errors import InputError, RunError
from kdtool.events import Reporter
from kdtool.recipe.rates import Optim
from tests.engine import tiny
from tests.engine.test_devices import Watching
from tests.engine.test_graph import Soft
from tests.sampling import sampled
from tests.simulated import simulated

WAIT = {"adamp", "sgdp", "cadamp", "csgdp", "novograd", "novogradc", "novogradw"}
"""Optimizers that read numbers on the host in each step, of every weight."""

NOT_HERE = {
    "adahessian": "is refused",
    "kron": "draws from a generator that the simulated device has not",
    "kronc": "as kron",
    "kronw": "as kron",
}


def _names() -> Iterator[str]:
    for name in list_optimizers():
        with contextlib.suppress(Exception):  # whatever is raised where a package is missing
            get_optimizer_class(name, bind_defaults=False)
            yield name


@pytest.mark.parametrize("name", sampled((name for name in _names() if name not in NOT_HERE), "lamb", "nadam"))
def test_no_optimizer_makes_the_host_wait_but_those_that_read(tmp_path: Path, name: str) -> None:
    with simulated() as device:
        batches = Watching(device=device())
        batches.device_seen, batches.steps_seen = device, []
        on = {"device": device(), "train_batches": batches, "val_batches": None}
        train = {"log_every": 1000, "epochs": 2}
        fit(tiny.job(tmp_path, Soft(), train=train, optim=Optim(name=name, lr=1e-3), **on), Reporter(), StopRequest())
    assert batches.steps_seen
    waits = [step for step in batches.steps_seen if step]
    assert bool(waits) == (name in WAIT), waits


@pytest.mark.parametrize("optimizer", ["lamb", "adamw"])
def test_a_step_that_is_not_finite_spoils_nothing_there(tmp_path: Path, optimizer: str) -> None:
    """Whether it is withheld, or made with a gradient of zeros."""
    with simulated() as device:
        on = {"device": device(), "train_batches": tiny.Batches(device=device()), "val_batches": None}
        job = tiny.job(tmp_path, Soft(), train={"log_every": 100}, optim=Optim(name=optimizer, lr=0.05), **on)
        batches = job.train_batches

        class Poisoned(tiny.Batches):
            def epoch(self, epoch: int, start: int = 0) -> Iterator[object]:
                for number, batch in enumerate(batches.epoch(epoch, start)):
                    if (epoch, number) == (1, 2):
                        batch.inputs = batch.inputs * float("nan")
                    yield batch

        job.train_batches = Poisoned(device=device())
        with pytest.raises(RunError, match=r"stage distill, step 8.*nonfinite\.jsonl"):
            fit(job, Reporter(), StopRequest())
        assert all(p.isfinite().all() for p in job.student.parameters())
    assert next(json.loads(line)["step"] for line in (tmp_path / NON_FINITE).read_text().splitlines()) == 8
    newest = load_checkpoint(checkpoints(tmp_path / "checkpoints")[0])
    assert newest["progress"]["epoch"] == 1  # of the epoch before
    assert all(each.isfinite().all() for each in newest["parts"]["step"].values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adafactorbv"])
def test_a_run_goes_on_with_an_optimizer_that_keeps_a_type(tmp_path: Path, name: str) -> None:
    def run(folder: Path) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        job = tiny.job(folder, Soft(), train={"epochs": 3}, optim=Optim(name=name, lr=0.01))
        return fit(job, Reporter(), StopRequest()).state

    whole = run(tmp_path)
    for newer in checkpoints(tmp_path / "checkpoints")[:-1]:
        for file in newer.iterdir():
            file.unlink()
        newer.rmdir()
    again = run(tmp_path)
    assert all(torch.equal(again[key], tensor) for key, tensor in whole.items())


def test_an_optimizer_that_differentiates_gradients_is_refused() -> None:
    with pytest.raises(InputError, match=r"optim.name=adahessian differentiates gradients again.*adamw"):
        build_optimizer(Optim(name="adahessian", lr=0.1), torch.nn.Linear(1, 1))
