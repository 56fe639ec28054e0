"""The tap "input": a gradient by the images, the same for every network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kdtool.engine.by_input import tap_input
from kdtool.engine.precision import Precision
from kdtool.engine.step import run_network
from kdtool.engine.teaching import FrozenTeachers
from kdtool.errors import InputError
from tests.engine.tiny import Net

PRECISION = Precision("fp64", torch.device("cpu"))
IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()


class Halved(nn.Module):
    """A network that sees the images as its own kind of input, as an adapted teacher does."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Net(seed=3)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        logits, taps = self.network(0.5 * x)
        return logits, taps


def tapped() -> Halved:
    network = Halved().double().eval()
    assert tap_input(network, {"image": "input", "middle": 0}, IMAGE) == {"image": (3, 8, 8)}
    return network


def slope(logits: Tensor, image: Tensor) -> Tensor:
    return torch.autograd.grad(logits.square().sum(), image)[0]


def by_hand() -> Tensor:
    image = IMAGE.clone().requires_grad_()
    return slope(tapped()(image)[0], image)


def test_a_frozen_teacher_is_differentiated_by_the_student_s_images():
    (out,) = FrozenTeachers([tapped()], PRECISION)(IMAGE)
    torch.testing.assert_close(slope(out.logits, out.taps["image"]), by_hand(), rtol=1e-9, atol=1e-9)
    assert not IMAGE.requires_grad


def test_so_is_what_trains():
    out = run_network(tapped(), IMAGE, PRECISION)
    torch.testing.assert_close(slope(out.logits, out.taps["image"]), by_hand(), rtol=1e-12, atol=1e-12)


def test_where_nothing_learns_nothing_is_differentiated():
    with torch.no_grad():
        (out,) = FrozenTeachers([tapped()], PRECISION)(IMAGE)
    assert not out.logits.requires_grad
    torch.testing.assert_close(out.taps["image"], IMAGE)


def test_token_ids_have_no_gradient():
    with pytest.raises(InputError, match="real numbers"):
        tap_input(Net(), {"image": "input"}, torch.ones(2, 5, dtype=torch.int64))
