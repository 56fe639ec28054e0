"""The engine on devices that are simulated: where tensors are, what has no float64, and what the host waits for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdtool import Batch
from kdtool.engine.launch import with_shared_norms
from kdtool.engine.precision import pick_device
from kdtool.engine.signals import StopRequest
from kdtool.engine.trainer import fit
from kdtool.errors import InputError
from kdtool.events import Reporter
from kdtool.recipe.rates import Optim
from kdtool.tasks.images.models.backbone import Backbone
from tests.engine import tiny
from tests.engine.test_trainer import SETUP, Hinted
from tests.engine.test_update import Related
from tests.sampling import sampled
from tests.simulated import Device, Stream, simulated


def _fit(folder: Path, device: torch.device, **changes: Any) -> Any:
    on = {
        "device": device,
        "train_batches": tiny.Batches(device=device),
        "val_batches": tiny.Batches(24, device=device),
    }
    return fit(tiny.job(folder, **{**on, **changes}), Reporter(), StopRequest())


class Banked(Related):
    """A coupled loss with a memory bank that ``after_step`` alone writes to."""

    def __init__(self, *_: Any) -> None:
        super().__init__(None, SETUP)
        self.register_buffer("bank", torch.zeros(48, 3))

    @torch.no_grad()
    def after_step(self, batch: Batch) -> None:
        self.bank.index_copy_(0, batch.index, batch.student.logits.detach().to(self.bank.dtype))


@pytest.mark.parametrize(
    ("name", "precision", "accumulate", "kind"),
    sampled(
        (
            (name, precision, accumulate, kind)
            for name in ("cuda", "mps")
            for precision in ("fp32", "bf16", "fp16")
            for accumulate in (1, 3)
            for kind in ("hint", "coupled")
        ),
        ("cuda", "fp16", 1, "hint"),
        ("cuda", "bf16", 3, "coupled"),
        ("mps", "fp32", 3, "hint"),
        ("mps", "fp16", 3, "coupled"),
    ),
)
def test_training_there_is_training_here(tmp_path: Path, name: str, precision: str, accumulate: int, kind: str) -> None:
    def make() -> Any:
        torch.manual_seed(0)
        return Hinted() if kind == "hint" else Banked()

    train = {"precision": precision, "accumulate": accumulate, "epochs": 3, "ema": 0.9, "clip_grad": 1.0}
    optim = Optim(name="sgd", lr=0.01)
    with simulated(name) as device:
        there = _fit(tmp_path / "there", device(), method=make(), train=train, optim=optim)
    here = _fit(tmp_path / "here", torch.device("cpu"), method=make(), train=train, optim=optim)
    assert all(type(tensor) is Tensor for tensor in there.state.values())
    for key, tensor in here.state.items():
        assert torch.allclose(there.state[key], tensor, atol=0 if precision == "fp32" else 2e-2, rtol=0), key


class Watching(tiny.Batches):
    """Batches that note what the host waited for at each step, but for an epoch's first ones, which measure."""

    device_seen: Device
    steps_seen: list[dict[str, int]]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        for number, batch in enumerate(super().epoch(epoch, start)):
            before = dict(self.device_seen.waits)
            yield batch
            now = self.device_seen.waits
            if 0 < number < self.steps - 1:  # the loss is read at the last
                self.steps_seen.append(
                    {key: now[key] - before.get(key, 0) for key in now if now[key] != before.get(key, 0)}
                )


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize(("kind", "accumulate"), [("hint", 1), ("hint", 2), ("coupled", 1), ("coupled", 2)])
def test_no_step_waits_for_the_device(tmp_path: Path, kind: str, accumulate: int, optimizer: str) -> None:
    with simulated() as device:
        batches = Watching(device=device())
        batches.device_seen, batches.steps_seen = device, []
        method = Hinted() if kind == "hint" else Banked()
        train = {"log_every": 1000, "epochs": 3, "accumulate": accumulate, "ema": 0.9}
        optim = Optim(name=optimizer, lr=0.01)
        _fit(tmp_path, device(), method=method, train=train, train_batches=batches, optim=optim)
    assert batches.steps_seen
    assert not any(batches.steps_seen), batches.steps_seen


def test_a_skipped_step_copies_what_a_step_moves_and_no_bank(tmp_path: Path) -> None:
    with simulated() as device:
        method = Banked()
        _fit(tmp_path, device(), method=method, train={"on_nonfinite": "skip", "epochs": 1})
        steps, device.clones[:] = device.clones[:], []
        _fit(tmp_path / "b", device(), method=Banked(), train={"on_nonfinite": "stop", "epochs": 1})
        plain, device.clones[:] = device.clones[:], []
        _fit(tmp_path / "c", device(), method=Banked(), train={"accumulate": 2, "epochs": 1})
    bank = (48, 3)
    assert (4,) in steps  # statistics of a norm
    assert steps.count(bank) == plain.count(bank) == device.clones.count(bank)  # as the stage begins


@pytest.mark.parametrize("norm", [True, False])
def test_a_device_holds_a_teacher_once(tmp_path: Path, norm: bool) -> None:
    teacher = tiny.Net(seed=5, norm=norm)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    with simulated() as device:
        _fit(tmp_path, device(), method=Hinted(), teachers=[teacher.to(device())], train={"epochs": 3})
        assert {tensor.device.type for tensor in teacher.state_dict().values()} == {"cpu"}
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_prefetched_batches_share_one_stream(tmp_path: Path) -> None:
    with simulated() as device:
        before = Stream.made
        _fit(tmp_path, device(), method=Hinted(), train={"epochs": 4})
    assert Stream.made - before == 1


def test_norms_that_see_all_processes_keep_their_taps() -> None:
    import timm

    network = Backbone(timm.create_model("resnet18", num_classes=3), {"stem": "bn1", "deep": "layer1.0.bn2"})
    images = torch.randn(2, 3, 32, 32)
    want = network.eval()(images)[1]
    shared = with_shared_norms(network).eval()
    assert isinstance(shared.module.bn1, torch.nn.SyncBatchNorm)
    got = shared(images)[1]
    assert all(torch.equal(got[role], want[role]) for role in ("stem", "deep"))


@pytest.mark.parametrize(
    ("name", "together", "said"),
    [
        ("cuda:0", 2, r"'cuda:0' is one, and 2 processes would be on it.*CUDA devices here: 1"),
        ("cuda", 4, r"4 processes would share 1 CUDA device\..*one process"),
        ("auto", 2, r"2 processes would share 1 CUDA device"),
    ],
)
def test_two_processes_are_not_put_on_one_card(name: str, together: int, said: str) -> None:
    with simulated(), pytest.raises(InputError, match=said):
        pick_device(name, 1, together)


def test_each_process_takes_a_card() -> None:
    with simulated(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "device_count", lambda: 2)
        assert [pick_device(name, 1, 2) for name in ("auto", "cuda")] == [torch.device("cuda", 1)] * 2
        with pytest.raises(InputError, match=r"4 processes would share 2 CUDA devices\..*--nproc 2"):
            pick_device("cuda", 3, 4)
