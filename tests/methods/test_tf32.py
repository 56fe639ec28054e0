"""Losses that compare inner products keep their gradient where a card rounds fp32 products to TF32's 10 bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kdtool_methods import cckd, fsp, ickd, mlkd, nst, pkt, semckd, sp, sskd
from tests.simulated import simulated


class TF32(TorchDispatchMode):
    """Rounds what is multiplied in fp32 to 10 bits, as a card does where ``train.tf32`` allows it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in ("mm", "bmm", "addmm", "baddbmm"):
            args = [_rounded(each) if getattr(each, "dtype", None) is torch.float32 else each for each in args]
        return func(*args, **(kwargs or {}))


def _rounded(x: Tensor) -> Tensor:
    return ((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def _flows(student: Tensor, teacher: Tensor) -> Tensor:
    return (fsp.flow(student, student[:, :5]) - fsp.flow(teacher, teacher[:, :5])).square().mean()


def _turned(student: Tensor, teacher: Tensor) -> Tensor:
    ours, theirs = (sskd.similarities(each[:4].flatten(1), each[4:].flatten(1)) for each in (student, teacher))
    return (ours - theirs).square().mean()


def _alike(student: Tensor, teacher: Tensor) -> Tensor:
    return (semckd.similarity(student) - semckd.similarity(teacher)).square().mean()


def _level(student: Tensor, teacher: Tensor) -> Tensor:
    return mlkd.batch_loss(student.flatten(1), teacher.flatten(1), 4.0)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sp": sp.similarity_loss,
    "pkt": pkt.probability_loss,
    "pkt gaussian": lambda student, teacher: pkt.probability_loss(student, teacher, "gaussian"),
    "cckd": cckd.correlation_loss,
    "ickd": ickd.correlation_loss,
    "mlkd": _level,
    "nst": nst.selectivity_loss,
    "nst gaussian": lambda student, teacher: nst.selectivity_loss(student, teacher, "gaussian"),
    "nst, few channels": lambda student, teacher: nst.selectivity_loss(student[:, :3], teacher[:, :3]),
    "fsp": _flows,
    "semckd": _alike,
    "sskd": _turned,
}


def _gradient(loss: Callable[[Tensor, Tensor], Tensor], student: Tensor, teacher: Tensor) -> Tensor:
    student = student.detach().requires_grad_()
    return torch.autograd.grad(loss(student, teacher), student)[0]


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_as_good_as_without_rounding(name: str) -> None:
    drawn = torch.Generator().manual_seed(0)
    teacher = 1 + torch.rand(8, 20, 4, 4, generator=drawn)
    student = teacher + 0.02 * torch.randn(teacher.shape, generator=drawn)  # late in training: small differences
    exact = _gradient(LOSSES[name], student.double(), teacher.double())
    plain = _gradient(LOSSES[name], student, teacher).double()
    with simulated() as device, TF32():
        found = _gradient(LOSSES[name], student.to(device()), teacher.to(device())).cpu().double()
    assert (found - exact).norm() <= 3 * (plain - exact).norm() + 1e-6 * exact.norm()


def test_the_rounding_is_seen_where_nothing_is_done_about_it() -> None:
    drawn = torch.Generator().manual_seed(0)
    x, y = torch.rand(8, 90, generator=drawn), torch.rand(5, 90, generator=drawn)
    with simulated() as device, TF32():
        found = (x.to(device()) @ y.to(device()).mT).cpu()
    error = float((found - x @ y.mT).abs().max() / (x @ y.mT).max())
    assert 1e-5 < error < 1e-3
