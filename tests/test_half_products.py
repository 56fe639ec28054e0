"""Products in half precision on the simulated device: those of fp32, rounded once, whatever processor is below."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.simulated import simulated

CASES: dict[str, tuple[tuple[tuple[int, ...], ...], Callable[..., Tensor]]] = {
    "convolution": (((4, 48, 5, 5), (8, 48, 3, 3), (8,)), lambda x, w, b: F.conv2d(x, w, b, padding=1)),
    "depthwise": (((4, 48, 5, 5), (48, 1, 3, 3)), lambda x, w: F.conv2d(x, w, groups=48)),
    "layer": (((6, 1000), (7, 1000), (7,)), F.linear),
    "matrices": (((3, 5, 90), (3, 90, 4)), torch.matmul),
}


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_product_and_its_gradients_are_rounded_once(device: str, name: str, half: torch.dtype) -> None:
    shapes, product = CASES[name]
    drawn = torch.Generator().manual_seed(0)
    given = [torch.randn(shape, generator=drawn).to(half) for shape in shapes]
    wide = [each.float().requires_grad_() for each in given]
    want = product(*wide)
    upstream = torch.randn(want.shape, generator=drawn).to(half)
    gradients = torch.autograd.grad(want, wide, upstream.float())
    with simulated(device) as place:
        there = [each.to(place()).requires_grad_() for each in given]
        got = product(*there)
        assert got.dtype == half
        found = [got, *torch.autograd.grad(got, there, upstream.to(place()))]
        here = [each.detach().cpu() for each in found]
    for ours, exact in zip(here, (want, *gradients), strict=True):
        assert torch.equal(ours, exact.detach().to(half))


def test_what_autocast_multiplies_is_in_half_precision_on_either_device() -> None:
    for device in ("cuda", "mps"):
        with simulated(device) as place, torch.autocast(device, torch.bfloat16):
            x, w = torch.ones(2, 3).to(place()), torch.ones(4, 3).to(place())
            assert F.linear(x, w).dtype == torch.bfloat16
            assert (x + 1).dtype == torch.float32


def test_types_that_torch_refuses_to_mix_are_refused_there() -> None:
    with simulated() as place:
        x, w = torch.ones(2, 3).to(place()), torch.ones(4, 3, dtype=torch.bfloat16).to(place())
        with pytest.raises(RuntimeError, match="dtype"):
            x @ w.mT
