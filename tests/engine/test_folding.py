"""Folding batch norms changes no output beyond rounding, and is left undone where it would."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from kdtool.engine.folding import folded
from kdtool.tasks.images.models.backbone import Backbone


def _with_statistics(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for part in module.modules():
        if getattr(part, "running_mean", None) is not None:
            nn.init.normal_(part.running_mean, 0, 0.1)
            nn.init.uniform_(part.running_var, 0.5, 2)
            if part.weight is not None:
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.normal_(part.bias, 0, 0.1)
    return module.eval()


def _norms(module: nn.Module) -> int:
    return sum(getattr(part, "running_mean", None) is not None for part in module.modules())


@pytest.mark.parametrize(
    ("name", "norms", "folds"),
    [
        ("test_resnet", 15, 15),
        ("test_efficientnet", 13, 13),
        ("densenet121", 121, 59),  # others stand before their convolution
        ("repvgg_a0", 61, 44),  # others have none: a branch of the block's input
        ("test_vit", 0, 0),
    ],
)
def test_outputs_and_taps_stay(name: str, norms: int, folds: int) -> None:
    net = Backbone(_with_statistics(timm.create_model(name)), {"embedding": "embedding", "middle": 0.5}).eval()
    images = torch.randn(2, 3, 160 if "vit" in name else 64, 160 if "vit" in name else 64)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    ready, count = folded(net, images)
    with torch.no_grad():
        want, got = net(images), ready(images)
    for a, b in [(got[0], want[0]), *((got[1][role], want[1][role]) for role in ("embedding", "middle"))]:
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert (_norms(net), count) == (norms, folds)


class _Shared(nn.Module):
    """A convolution whose output is read beside its norm, one that runs twice, and one that may be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.twice, self.plain = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.norm_read, self.norm_plain = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.norm_twice = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.read(x)
        x = x + self.norm_read(x)
        x = self.norm_twice(self.twice(self.twice(x)))
        return self.norm_plain(self.plain(x))


def test_only_exact_pairs_are_folded() -> None:
    net = _with_statistics(_Shared())
    images = torch.randn(2, 3, 4, 4)
    ready, count = folded(net, images)
    assert count == 1
    with torch.no_grad():
        torch.testing.assert_close(ready(images), net(images))
