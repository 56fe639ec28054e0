"""What only a CUDA device shows. ``make test-gpu`` runs these."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from kdtool.engine.precision import choose_kernels
from kdtool.engine.prefetch import Prefetcher
from kdtool.engine.signals import StopRequest
from kdtool.engine.trainer import NON_FINITE, fit
from kdtool.errors import RunError
from kdtool.events import Reporter
from kdtool.recipe.rates import Optim
from tests.engine import tiny
from tests.engine.test_trainer import Hinted
from tests.engine.test_update import Related, Spoilt
from tests.running import PAIR, SMALL, call

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

CUDA = torch.device("cuda", 0)


def _fit(folder: Path, **changes: object) -> object:
    cuda = {"device": CUDA, "train_batches": tiny.Batches(device=CUDA), "val_batches": tiny.Batches(24, device=CUDA)}
    return fit(tiny.job(folder, **{**cuda, **changes}), Reporter(), StopRequest())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("kind", [Hinted, Related])
def test_training(tmp_path: Path, precision: str, kind: type) -> None:
    method = kind() if kind is Hinted else kind(None, Hinted().setup)
    assert _fit(tmp_path, method=method, train={"precision": precision}).best["val"]["top1"] > 0.4


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled(tmp_path: Path, mode: str) -> None:
    assert _fit(tmp_path, method=Hinted(), train={"compile": mode}).best["val"]["top1"] > 0.4


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_replayed_steps_are_steps(
    tmp_path: Path, precision: str, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def weights(warm: int) -> dict[str, torch.Tensor]:
        monkeypatch.setattr("kdtool.engine.graph.WARM", warm)
        torch.manual_seed(0)
        train = {"graph": "auto", "precision": precision, "ema": 0.9, "clip_grad": 1.0, "deterministic": True}
        found: dict[str, torch.Tensor] = _fit(
            tmp_path / str(warm), method=Hinted(), train=train, student=tiny.Net(dropout=0.3),
            optim=Optim(name=optimizer, lr=0.01),
        ).state  # type: ignore[attr-defined]  # fmt: skip
        return found

    choose_kernels(True)
    try:
        recorded, plain = weights(3), weights(10**9)
    finally:
        choose_kernels(False)
    assert all(torch.equal(recorded[name], tensor) for name, tensor in plain.items())


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lamb"])
def test_the_update_of_a_bad_step_is_withheld(tmp_path: Path, optimizer: str) -> None:
    student = tiny.Net()
    with pytest.raises(RunError, match="withheld"):
        _fit(
            tmp_path,
            method=Spoilt(),
            student=student,
            train={"log_every": 100},
            optim=Optim(name=optimizer, lr=0.05),
        )
    assert all(p.isfinite().all() for p in student.parameters())
    first = json.loads((tmp_path / NON_FINITE).read_text().splitlines()[0])
    assert set(Spoilt.bad_samples) & set(first["indices"])
    assert len(first["indices"]) == 8


def test_prefetched_batches_are_the_same() -> None:
    batches, prefetched = tiny.Batches(device=CUDA), Prefetcher(CUDA)
    for one, other in zip(batches.epoch(0), prefetched(batches.epoch(0)), strict=True):
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.index, other.index)


def test_no_step_waits_for_the_device(tmp_path: Path) -> None:
    torch.cuda.set_sync_debug_mode("default")
    seen = []

    class Watch(tiny.Batches):
        def epoch(self, epoch: int, start: int = 0) -> object:
            for number, batch in enumerate(super().epoch(epoch, start)):
                # The first step of an epoch measures how the terms share the gradient.
                torch.cuda.set_sync_debug_mode("error" if number > 1 else "default")
                seen.append(number)
                yield batch
            torch.cuda.set_sync_debug_mode("default")

    try:
        _fit(tmp_path, method=Hinted(), train_batches=Watch(device=CUDA), train={"log_every": 1000})
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert max(seen) > 2


def test_a_whole_run(tmp_path: Path) -> None:
    given = [*SMALL, "--device", "cuda", *PAIR]
    done = call("run", *given, "--method", "rkd+kd", "--out", tmp_path / "run", folder=tmp_path / "run")
    assert done.code == 0, done.err
    assert done.result["device"].startswith("cuda")
