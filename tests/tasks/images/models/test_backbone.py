"""Taps: what they mean, what they leave behind, and how wrong ones are answered."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtool.errors import InputError
from kdtool.tasks.images.models.backbone import Backbone
from kdtool.tasks.images.models.trace import stages_of, watch
from tests.sampling import sampled


def images(size: int = 32, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def resnet() -> nn.Module:
    torch.manual_seed(0)
    module: nn.Module = timm.create_model("test_resnet", num_classes=7)
    return module


def vit(**kwargs: Any) -> nn.Module:
    torch.manual_seed(0)
    module: nn.Module = timm.create_model("test_vit", num_classes=7, img_size=64, **kwargs)
    return module


class PlainCNN(nn.Module):
    """Squeezed maps in the middle, an in-place activation, a shared pooling layer, features by plain attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 1, 1)
        self.act = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2)
        self.body = nn.Sequential(nn.Conv2d(4, 6, 3, 1, 1), nn.BatchNorm2d(6))
        self.squeeze = nn.Conv2d(6, 6, 1)
        self.last = nn.Conv2d(6, 8, 3, 1, 1)
        self.fc = nn.Linear(8, 16)
        self.classifier = nn.Linear(16, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.act(self.stem(x)))
        x = self.body(x)
        x = x * self.squeeze(x.mean((2, 3), keepdim=True)).sigmoid()
        x = self.last(self.pool(F.relu(x)))
        logits: Tensor = self.classifier(self.fc(x.mean((2, 3))).relu())
        return logits


class Attention(nn.Module):
    """Attention written out, with a layer that takes (B, heads, N, N)."""

    def __init__(self, dim: int):
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)
        self.drop = nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(len(x), -1, 3, 2, x.shape[-1] // 2).permute(2, 0, 3, 1, 4)
        out: Tensor = self.drop((q @ k.transpose(-2, -1)).softmax(-1)) @ v
        return out.transpose(1, 2).flatten(2)


class Pyramid(nn.Module):
    """Tokens at two resolutions, with tokens mixed as channels inside the blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, 4)
        self.low = nn.Sequential(Attention(8), nn.LayerNorm(8))
        self.merge = nn.Linear(32, 16)
        self.high = nn.Sequential(Attention(16), nn.LayerNorm(16), Attention(16))
        self.head = nn.Linear(16, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.low(self.embed(x).flatten(2).transpose(1, 2))
        x = x.view(len(x), 4, 2, 4, 2, 8).permute(0, 1, 3, 2, 4, 5).reshape(len(x), 16, 32)
        logits: Tensor = self.head(self.high(self.merge(x)).mean(1))
        return logits


class PlainViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 8, 8)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 12))
        layers = [nn.TransformerEncoderLayer(12, 2, 24, batch_first=True), Attention(12), Attention(12)]
        self.blocks = nn.ModuleList(layers)
        self.head = nn.Linear(12, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(x[:, 0])
        return logits


@pytest.mark.parametrize(
    ("layer", "stage"), [(0, 0), (-1, 4), (-5, 0), (3, 3), (0.0, 0), (0.5, 2), (0.3, 1), (0.375, 2), (1.0, 4)]
)
def test_index_and_depth_choose_the_stage(layer: float, stage: int) -> None:
    module = resnet().eval()
    expected = module.forward_intermediates(images(), indices=[stage])[1][0]  # type: ignore[operator]
    logits, taps = Backbone(module, {"x": layer}, 32).eval()(images())
    assert torch.equal(taps["x"], expected)
    assert torch.equal(logits, module(images()))


def test_roles_lists_and_shared_stages() -> None:
    net = Backbone(resnet(), {"a": [2, "embedding", 0.5], "b": 2, "c": []}, 32).eval()
    _, taps = net(images())
    assert isinstance(taps["a"], list)
    assert taps["a"][0] is taps["b"]
    assert torch.equal(taps["a"][2], taps["b"])
    assert taps["c"] == []
    assert net.shapes(32) == {"a": [(48, 4, 4), (96,), (48, 4, 4)], "b": (48, 4, 4), "c": []}


def test_embedding_is_what_the_classifier_takes() -> None:
    net = Backbone(resnet(), {"e": "embedding"}, 32).eval()
    logits, taps = net(images())
    assert torch.equal(net.module.fc(taps["e"]), logits)  # type: ignore[operator]


@pytest.mark.parametrize(
    "name", ["resnetv2_18", "sequencer2d_s", "deit_tiny_distilled_patch16_224", "crossvit_tiny_240"]
)
def test_embedding_is_a_vector_for_every_kind_of_head(name: str) -> None:
    args = {"img_size": 32} if name.startswith(("seq", "deit")) else {}
    module = timm.create_model(name, num_classes=7, **args)
    (shape,) = Backbone(module, {"e": "embedding"}, 32).shapes(32).values()
    assert len(shape) == 1


def test_a_tap_survives_a_later_in_place_activation() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4 * 64, 7))
    net = Backbone(module, {"before": "0", "input": "1:in", "after": "1"}, 8).eval()
    _, taps = net(images(8))
    assert torch.equal(taps["before"], module[0](images(8)))
    assert torch.equal(taps["before"], taps["input"])
    assert torch.equal(taps["after"], taps["before"].relu())
    assert taps["before"].min() < 0


def test_tokens_come_as_maps_without_the_class_token() -> None:
    module = vit().eval()
    stage = module.forward_intermediates(images(64), indices=[2])[1][0]  # type: ignore[operator]
    _, taps = Backbone(module, {"by_name": "blocks.2", "by_stage": 2, "inner": "blocks.2.attn"}, 64).eval()(images(64))
    assert torch.equal(taps["by_name"], stage)
    assert torch.equal(taps["by_stage"], stage)
    assert taps["inner"].shape == (2, 64, 4, 4)


def test_channels_last_modules_come_channels_first() -> None:
    module = timm.create_model("swin_tiny_patch4_window7_224", num_classes=7, img_size=64).eval()
    net = Backbone(module, {"name": "layers.1", "stage": 1, "conv": "patch_embed.proj", "fc": "head.fc:in"}, 64).eval()
    _, taps = net(images(64))
    assert torch.equal(taps["name"], taps["stage"])
    assert net.shapes(64) == {"name": (192, 8, 8), "stage": (192, 8, 8), "conv": (96, 16, 16), "fc": (768,)}


def test_sequences_can_be_tapped_together_with_stages() -> None:
    module = vit().eval()
    seen: list[Tensor] = []
    module.get_submodule("blocks").register_forward_hook(lambda _, __, out: seen.append(out[:, 1:]))
    logits = module(images(64))
    _, taps = Backbone(module, {"all": "blocks", "first": "blocks:in", "stage": 0}, 64).eval()(images(64))
    assert torch.equal(taps["all"].flatten(2).transpose(1, 2), seen[0])
    assert taps["first"].shape == taps["stage"].shape
    assert torch.equal(module(images(64)), logits)


def test_a_plain_cnn_has_a_stage_for_each_resolution() -> None:
    module = PlainCNN()
    net = Backbone(module, {"stages": [0, 1, -1], "e": "embedding"}, 32).eval()
    assert net.stage_count == 3
    assert net.stages is not None
    assert net.stages.names == ("act", "body", "last")
    assert net.shapes(32) == {"stages": [(4, 32, 32), (6, 16, 16), (8, 8, 8)], "e": (16,)}
    logits, taps = net(images())
    assert torch.equal(logits, module(images()))
    assert torch.equal(module.classifier(taps["e"]), logits)


def test_a_plain_vit_has_a_stage_for_each_block() -> None:
    net = Backbone(PlainViT(), {"middle": 0.5, "all": [0, 1, 2], "e": "embedding"}, 32).eval()
    assert net.stages is not None
    assert net.stages.names == ("blocks.0", "blocks.1", "blocks.2")
    assert net.shapes(32) == {"middle": (12, 4, 4), "all": [(12, 4, 4)] * 3, "e": (12,)}


def test_a_timm_interface_that_changes_the_logits_is_not_used() -> None:
    module = resnet().eval()
    honest = module.forward_intermediates
    module.forward_intermediates = lambda *a, **k: (lambda last, maps: (last + 1, maps))(*honest(*a, **k))  # type: ignore
    net = Backbone(module, {"x": -1}, 32).eval()
    logits, taps = net(images())
    assert torch.equal(logits, module(images()))
    assert torch.equal(taps["x"], honest(images(), indices=[4])[1][0])


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize(
    ("name", "known", "extra"),
    [
        ("resnet10t", 5, 0),
        ("regnetx_002", 5, 0),
        ("hrnet_w18_small", 4, 1),
        ("densenet121", 4, 1),
        ("mobilenetv3_small_050", 5, 0),
    ],
)
def test_watching_finds_the_stages_that_timm_names(name: str, known: int, extra: int, size: int) -> None:
    module: Any = timm.create_model(name, num_classes=7).eval()
    if not hasattr(module, "forward_intermediates"):
        pytest.skip("this timm names no stages for it")
    _, maps = module.forward_intermediates(images(size))
    calls, _ = watch(module, images(size))
    shapes = {call.name: call.shape for call in calls}
    ours = [shapes[stage] for stage in stages_of(module, calls, 7)]
    assert ours[:known] == [tuple(feat.shape) for feat in maps][:known]
    assert len(ours) <= known + extra


@pytest.mark.parametrize(
    ("name", "stages", "deepest"),
    [
        ("resnet18", ("relu", "layer1", "layer2", "layer3", "layer4"), (512, 2, 2)),
        ("squeezenet1_1", ("features.1", "features.4", "features.7", "features"), (512, 3, 3)),
        ("mobilenet_v2", ("features.1", "features.3", "features.6", "features.13", "features"), (1280, 2, 2)),
        ("vit_b_16", tuple(f"encoder.layers.encoder_layer_{i}" for i in range(12)), (768, 4, 4)),
    ],
)
def test_networks_from_elsewhere(name: str, stages: tuple[str, ...], deepest: tuple[int, ...]) -> None:
    torchvision = pytest.importorskip("torchvision")
    args = {"image_size": 64} if name == "vit_b_16" else {}
    module = getattr(torchvision.models, name)(num_classes=7, **args)
    net = Backbone(module, {"x": -1, "e": "embedding"}, 64).eval()
    assert net.stages is not None
    assert net.stages.names == stages
    assert net.shapes(64)["x"] == deepest
    assert len(net.shapes(64)["e"]) == 1


def test_a_plain_pyramid_of_tokens_has_a_stage_for_each_resolution() -> None:
    net = Backbone(Pyramid(), {"all": [0, 1], "e": "embedding"}, 32)
    assert net.stage_count == 2
    assert net.shapes(32) == {"all": [(8, 8, 8), (16, 4, 4)], "e": (16,)}


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (5, "has 5 stages; valid: 0 to 4, or -5 to -1"),
        (-6, "valid: 0 to 4"),
        (1.5, r"0\.0 \(first stage\) to 1\.0"),
        ("layer9", "Did you mean 'layer"),
        ("layer1:out", "':in'"),
        ("", "no module"),
        (True, "not True"),
        (None, "not None"),
    ],
)
def test_wrong_taps_name_the_valid_ones(layer: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Backbone(resnet(), {"x": layer}, 32)


def test_a_module_that_never_runs_is_refused() -> None:
    module = PlainCNN()
    module.unused = nn.Linear(2, 2)
    with pytest.raises(InputError, match="does not run"):
        Backbone(module, {"x": "unused"}, 32)


def test_a_network_without_maps_is_told_to_tap_by_name() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 9), nn.ReLU(), nn.Linear(9, 7))
    with pytest.raises(InputError, match="no feature maps"):
        Backbone(module, {"x": 0}, 8)
    assert Backbone(module, {"x": "1", "e": "embedding"}, 8).shapes(8) == {"x": (9,), "e": (9,)}


def test_measuring_leaves_no_trace() -> None:
    module = resnet().train()
    module.get_submodule("layer1").eval()
    before, modes = copy.deepcopy(module.state_dict()), [m.training for m in module.modules()]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    net = Backbone(module, {"x": [0, 0.5], "e": "embedding"}, 32)
    assert net.stage_count == 5
    net.shapes(48)
    assert torch.equal(torch.rand(3), expected)
    assert [m.training for m in module.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert list(net.module.state_dict()) == list(before)


@pytest.mark.parametrize("make", [resnet, vit, PlainCNN, PlainViT])
def test_gradients_reach_the_taps_in_training(make: Callable[[], nn.Module]) -> None:
    module = make()
    size = 64 if make is vit else 32
    net = Backbone(module, {"x": [0, -1], "e": "embedding"}, size).train()
    logits, taps = net(images(size))
    (taps["x"][0].square().mean() + taps["x"][1].square().mean() + taps["e"].square().mean() + logits.sum()).backward()
    assert [name for name, p in module.named_parameters() if p.grad is None] == []


def test_nothing_is_kept_between_calls() -> None:
    net = Backbone(resnet(), {"x": "layer2", "e": "embedding", "s": 1}, 32)
    net(images())
    net.module(images())
    assert (net.recording.on, net.recording.found) == (False, {})
    with pytest.raises(RuntimeError):
        net(torch.zeros(1, 4, 32, 32))
    assert (net.recording.on, net.recording.found) == (False, {})


def test_copies_and_pickles_are_independent() -> None:
    net = Backbone(resnet(), {"x": "layer2", "e": "embedding", "s": 1}, 32).eval()
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(0.5)
        logits, taps = other(images())
        assert not torch.equal(taps["x"], net(images())[1]["x"])
        assert torch.equal(logits, other.module(images()))
        assert other.recording is not net.recording


def test_two_backbones_share_a_module() -> None:
    module = resnet().eval()
    one, two = Backbone(module, {"x": "layer1"}, 32), Backbone(module, {"y": "layer2"}, 32)
    assert set(one(images())[1]) == {"x"}
    assert two(images())[1]["y"].shape == (2, 48, 4, 4)


@pytest.mark.parametrize("make", sampled([resnet, vit, PlainCNN], PlainCNN))
def test_compiles_without_a_graph_break(make: Callable[[], nn.Module]) -> None:
    size = 64 if make is vit else 32
    name = {"resnet": "layer2", "vit": "blocks.1"}.get(make.__name__, "body")
    net = Backbone(make(), {"x": [0, -1], "n": name, "e": "embedding", "i": f"{name}:in"}, size).eval()
    logits, taps = net(images(size))
    torch._dynamo.reset()
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    for _ in range(2):
        again, found = compiled(images(size))
        torch.testing.assert_close(again, logits)
        torch.testing.assert_close(found, taps)
    assert net.recording.found == {}
    torch._dynamo.reset()


def test_data_parallel(tmp_path: Path) -> None:
    distributed = torch.distributed
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    distributed.init_process_group(
        "gloo", store=distributed.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1
    )
    try:
        net = Backbone(resnet(), {"x": ["layer2", 1], "e": "embedding"}, 32)
        plain = copy.deepcopy(net)
        wrapped = nn.parallel.DistributedDataParallel(net)
        for _ in range(2):
            for each in (wrapped, plain):
                logits, taps = each(images())
                (logits.square().mean() + taps["x"][0].square().mean() + taps["e"].square().mean()).backward()
        for ours, theirs in zip(net.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad)
    finally:
        distributed.destroy_process_group()


def test_without_taps_the_network_just_runs() -> None:
    net = Backbone(resnet()).eval()
    logits, taps = net(images())
    assert taps == {}
    assert torch.equal(logits, net.module(images()))
    assert net.stage_count == 5
