"""The papers' small networks: sizes, timm's interface, taps, saving, and checkpoints under the original names."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

import kdtool_models
from kdtool.errors import InputError
from kdtool.tasks.images.models.build import build
from kdtool.tasks.images.models.save import how_to_open, save_student
from tests.sampling import every

NAMES = sorted(kdtool_models.default_cfgs)

PARAMETERS = {
    "resnet8": 83_892, "resnet14": 181_108, "resnet20": 278_324, "resnet32": 472_756, "resnet44": 667_188,
    "resnet56": 861_620, "resnet110": 1_736_564, "resnet8x4": 1_233_540, "resnet32x4": 7_433_860,
    "resnet50_cifar": 23_705_252, "wrn_16_1": 180_916, "wrn_16_2": 703_284, "wrn_40_1": 569_780,
    "wrn_40_2": 2_255_156, "vgg8": 3_965_028, "vgg13_cifar": 9_462_180, "mobilenetv2_050_cifar": 812_836,
    "shufflenet_v1": 949_258, "shufflenet_v2": 1_355_528, "mlp_1200": 2_395_210, "mlp_800": 1_276_810,
    "mlp_300": 328_810, "mlp_30": 24_790,
}  # fmt: skip
"""With 100 classes, as Tian et al.'s code builds them; the perceptrons with 10."""

ORIGINAL = {
    "resnet8": [("shortcut", "downsample")],
    "resnet50_cifar": [(r"^fc", "linear")],
    "wrn_16_1": [("shortcut", "convShortcut"), (r"^(block\d)", r"\1.layer")],
    "vgg8": [(r"^fc", "classifier")],
    "mobilenetv2_050_cifar": [(r"^block(\d)", r"blocks.\1"), (r"^fc", "classifier.0")],
    "shufflenet_v1": [(r"^fc", "linear")],
    "shufflenet_v2": [(r"^fc", "linear")],
}
"""What Tian et al.'s code calls the same weights, one network a family."""


def images(name: str, channels: int = 3) -> Tensor:
    side = kdtool_models.default_cfgs[name].default.input_size[-1]
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(1))


def network(name: str, **how: Any) -> Any:
    return timm.create_model(name, **how).eval()


def test_every_network_is_counted() -> None:
    assert sorted(PARAMETERS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_sizes_names_and_interface(name: str) -> None:
    net, x = network(name), images(name)
    assert not hasattr(timm.models, name)  # it hides none of timm's
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[name]
    with torch.no_grad():
        logits, (last, maps) = net(x), net.forward_intermediates(x)
        assert logits.shape == (2, net.num_classes)
        assert torch.equal(net.forward_head(last), logits)
        assert torch.equal(net.forward_features(x), last)
        assert net.forward_head(last, pre_logits=True).shape == (2, net.num_features)
        for info, feat in zip(net.feature_info, maps, strict=True):
            side = x.shape[-1] // info["reduction"]
            assert feat.shape == (2, info["num_chs"], side, side)
        only = net.forward_intermediates(x, indices=[1, -1], intermediates_only=True, stop_early=True)
        assert [torch.equal(a, b) for a, b in zip(only, (maps[1], maps[-1]), strict=True)] == [True, True]
        assert torch.equal(net.forward_intermediates(x, indices=1)[1][0], maps[-1])
    with pytest.raises(ValueError, match="NCHW"):
        net.forward_intermediates(x, output_fmt="NLC")
    with pytest.raises(IndexError):
        net.forward_intermediates(x, indices=[9])
    net.reset_classifier(7)
    assert net.get_classifier().out_features == net.num_classes == 7


@pytest.mark.parametrize("name", NAMES)
def test_options_of_timm(name: str) -> None:
    grey = network(name, in_chans=1, num_classes=0)
    assert grey(images(name, 1)).shape == (2, grey.num_features)
    torch.manual_seed(0)
    net, x = network(name, drop_rate=0.5), images(name)
    assert torch.equal(net(x), net(x))
    assert not torch.equal(net.train()(x), net(x))


@pytest.mark.parametrize("name", [n for n in NAMES if not n.startswith("mlp")])
def test_features_only(name: str) -> None:
    whole = network(name)
    net = network(name, features_only=True, out_indices=(1, 2))
    missing = net.model.load_state_dict(whole.state_dict(), strict=False).missing_keys
    with torch.no_grad():
        found, maps = net(images(name)), whole.forward_intermediates(images(name))[1]
    assert torch.equal(found[0], maps[1])
    assert torch.equal(found[1], maps[2])
    assert not missing
    assert sum(p.numel() for p in net.parameters()) < PARAMETERS[name]


@pytest.mark.parametrize("name", every(4, NAMES))
def test_kdtool_taps_trains_and_saves_it(name: str, tmp_path: Path) -> None:
    built = build(name, "auto", num_classes=5, prefer_scratch=True)
    module: Any = built.module
    assert built.image_size == kdtool_models.default_cfgs[name].default.input_size[-1]
    tapped = built.tapped({"all": list(range(len(module.feature_info))), "middle": 0.5, "vector": "embedding"})
    assert tapped.stages is not None
    assert tapped.stages.names == ()  # through forward_intermediates, without hooks
    logits, taps = tapped.train()(images(name))
    assert torch.equal(taps["middle"], taps["all"][(len(taps["all"])) // 2])
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())
    save_student(tmp_path, built, module.state_dict(), [f"class {k}" for k in range(5)])
    opened = network(f"local-dir:{tmp_path}", pretrained=True)
    with torch.no_grad():
        assert torch.equal(opened(images(name)), module.eval()(images(name)))
    assert how_to_open(built, tmp_path).startswith("import kdtool_models; timm.create_model")


@pytest.mark.slow
def test_a_saved_network_opens_where_nothing_named_its_package(tmp_path: Path) -> None:
    built = build("mlp_30", "scratch", num_classes=10)
    save_student(tmp_path, built, built.module.state_dict(), [str(digit) for digit in range(10)])
    code = "from kdtool.tasks.images.models.build import build\n"
    code += f"print(build('local-dir:{tmp_path}', num_classes=10).timm_name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "mlp_30\n"


@pytest.mark.parametrize("name", every(4, ORIGINAL))
def test_original_checkpoints_load(name: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    source = network(name)
    state = {}
    for key, value in source.state_dict().items():
        for ours, theirs in ORIGINAL[name]:
            key = re.sub(ours, theirs, key)
        state[key] = value
    torch.save({"epoch": 240, "model": state}, tmp_path / "ckpt.pth")
    built = build(name, str(tmp_path / "ckpt.pth"), num_classes=100, image_size=32)
    assert not built.needs_training
    with torch.no_grad():
        assert torch.equal(built.module.eval()(images(name)), source(images(name)))
    del state[next(iter(state))]
    torch.save(state, tmp_path / "ckpt.pth")
    with pytest.raises(InputError, match="do not fit"):
        build(name, str(tmp_path / "ckpt.pth"), num_classes=100, image_size=32)


def test_first_weights_follow_the_papers() -> None:
    torch.manual_seed(0)
    conv = network("resnet32x4").layer3[1].conv2.weight
    assert conv.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.01)
    assert network("vgg8").fc.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert network("vgg8").block4[0].bias.abs().max() == 0


def test_perceptron_averages_channels_and_takes_other_sizes() -> None:
    net, grey = network("mlp_30"), images("mlp_30", 1)
    torch.testing.assert_close(net(grey.expand(-1, 3, -1, -1)), net(torch.cat([grey - 1, grey, grey + 1], 1)))
    assert network("mlp_30", img_size=(16, 16))(grey.expand(-1, 3, -1, -1)[..., :16, :16]).shape == (2, 10)


def test_perceptron_drops_pixels_and_units() -> None:
    x = torch.ones(4000, 3, 28, 28)
    net = network("mlp_30", input_drop_rate=0.25)
    still = net(x[:1])
    torch.manual_seed(0)
    seen: list[Tensor] = []
    net.hidden[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    net.train()(x)
    assert (seen[0] == 0).double().mean().item() == pytest.approx(0.25, abs=0.002)
    assert seen[0].mean().item() == pytest.approx(1.0, abs=0.002)
    torch.testing.assert_close(net.eval()(x[:1]), still)


def test_weight_constraint_scales_units_down_while_training() -> None:
    net, x = network("mlp_30", max_norm=0.5), images("mlp_30")
    before = [layer.weight.detach().clone() for layer in net.hidden]
    net(x)
    assert all(torch.equal(layer.weight, kept) for layer, kept in zip(net.hidden, before, strict=True))
    net.train()(x).sum().backward()
    for layer, kept in zip(net.hidden, before, strict=True):
        norms = kept.norm(dim=1, keepdim=True)
        torch.testing.assert_close(layer.weight.detach(), kept * (0.5 / norms).clamp(max=1))
        assert layer.weight.grad is not None
