"""A stage read before its activation: at its own end, or behind the norm that the next block begins with."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import timm
import torch
from torch import Tensor, nn

import kdtool_models  # noqa: F401  (registers its networks)
from kdtool.errors import InputError
from kdtool.tasks.images.models.backbone import Backbone


def tapped(network: nn.Module, depth: str, size: int = 32) -> tuple[Tensor, Tensor]:
    """Return a stage's feature before its activation and as it is, of one batch."""
    backbone = Backbone(network.eval(), {"pre": f"{depth}:pre", "feature": float(depth)}, size)
    with torch.no_grad():
        _, taps = backbone(torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0)))
    return taps["pre"], taps["feature"]


@pytest.mark.parametrize("name", ["resnet8", "vgg8", "resnet18", "test_byobnet"])
@pytest.mark.parametrize("depth", ["0.33", "1.0"])
def test_a_stage_that_ends_in_an_activation_is_read_before_it(name: str, depth: str) -> None:
    residual = {"zero_init_last": False} if name == "resnet18" else {}
    pre, feature = tapped(timm.create_model(name, num_classes=3, **residual), depth)
    assert (pre < 0).any()
    assert torch.equal(pre.relu(), feature)


@pytest.mark.parametrize(("depth", "norm"), [("0.33", "block2.0.bn1"), ("0.67", "block3.0.bn1"), ("1.0", "bn1")])
def test_a_pre_activation_network_is_read_behind_the_next_norm(depth: str, norm: str) -> None:
    network = timm.create_model("wrn_16_2", num_classes=3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.normal_(module.bias)
    pre, feature = tapped(network, depth)
    assert torch.equal(pre, network.get_submodule(norm)(feature))
    assert ((pre > 0) != (feature > 0)).any()


def test_a_norm_that_brings_its_activation_along() -> None:
    network = timm.create_model("resnetv2_18", num_classes=3)
    pre, feature = tapped(network, "1.0", 64)
    assert torch.equal(network.norm(feature), pre.relu())
    assert (pre < 0).any()


def test_without_an_activation_it_is_the_feature() -> None:
    for name in ("test_efficientnet", "test_vit"):
        network = timm.create_model(name, num_classes=3)
        assert torch.equal(*tapped(network, "1.0", network.pretrained_cfg["input_size"][1]))


def test_stages_that_a_watched_forward_shows() -> None:
    """A network of one's own, without timm's interface; its activations work in place."""
    layers = OrderedDict(
        lower=nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.LeakyReLU(0.1, inplace=True)),
        upper=nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(inplace=True)),
        pool=nn.AdaptiveAvgPool2d(1),
        flat=nn.Flatten(),
        head=nn.Linear(6, 3),
    )
    for depth, activation in (("0.0", nn.LeakyReLU(0.1)), ("1.0", nn.ReLU())):
        pre, feature = tapped(nn.Sequential(layers), depth)
        assert torch.equal(activation(pre), feature)
        assert (pre < 0).any()


def test_a_number_must_stand_before_pre() -> None:
    with pytest.raises(InputError, match=r"'layer1:pre': before ':pre' stands a stage's number or a depth"):
        Backbone(timm.create_model("resnet8", num_classes=3), {"pre": "layer1:pre"}, 32)
    with pytest.raises(InputError, match="out of range"):
        Backbone(timm.create_model("resnet8", num_classes=3), {"pre": "7:pre"}, 32)
