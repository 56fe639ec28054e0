"""Every timm family: stages, embedding, gradients, and a saved student that plain timm opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from kdtool.errors import InputError
from kdtool.tasks.images.models.build import Built, build
from kdtool.tasks.images.models.save import save_student

DIVERSE = {
    "resnet18": 32,
    "mobilenetv3_small_050": 32,
    "vit_tiny_patch16_224": 32,
    "deit_tiny_distilled_patch16_224": 48,
    "swin_tiny_patch4_window7_224": 64,
    "convnext_atto": 32,
    "efficientnet_lite0": 32,
    "mobilevit_xxs": 32,
    "mixer_s32_224": 64,
    "densenet121": 32,
    "regnetx_002": 32,
    "ghostnet_050": 32,
    "levit_128s": 32,
    "convit_tiny": 32,
    "crossvit_tiny_240": 32,
    "resnetv2_18": 32,
}

SMALLEST = {
    "beit": "beit_base_patch16_224", "byoanet": "halonet_h1", "byobnet": "test_byobnet", "cait": "cait_xxs24_224",
    "coat": "coat_tiny", "convit": "convit_tiny", "convmixer": "convmixer_768_32", "convnext": "test_convnext",
    "cpubone": "cpubone_nano", "crossvit": "crossvit_tiny_240", "csatv2": "csatv2", "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny", "davit": "davit_tiny", "deit": "deit_tiny_distilled_patch16_224",
    "densenet": "densenet121", "dla": "dla46x_c", "dpn": "dpn48b", "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1", "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "test_efficientnet", "efficientvim": "efficientvim_m1", "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0", "eva": "eva02_tiny_patch14_224", "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8", "focalnet": "focalnet_tiny_srf", "gcvit": "gcvit_xxtiny", "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_b", "hgnet": "hgnetv2_b0", "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny", "hrnet": "hrnet_w18_small", "iformer": "iformer_t",
    "inception_next": "inception_next_atto", "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3", "inception_v4": "inception_v4", "lcnetv2": "lcnetv2_small",
    "levit": "levit_conv_128s", "lowformer": "lowformer_b0", "mambaout": "test_mambaout", "maxxvit": "test_coatnet",
    "metaformer": "caformer_s18", "mlp_mixer": "gmlp_ti16_224", "mobilenetv3": "lcnet_035",
    "mobilenetv5": "mobilenetv5_base", "mobilevit": "mobilevit_xxs", "mvitv2": "mvitv2_tiny",
    "naflexvit": "naflexvit_base_patch16_parfac_gap", "nasnet": "nasnetalarge", "nest": "nest_tiny",
    "nextvit": "nextvit_small", "nfnet": "test_nfnet", "pit": "pit_ti_224", "pnasnet": "pnasnet5large",
    "pvt_v2": "pvt_v2_b0", "qwen3_vit": "qwen3_vit_88m", "rdnet": "rdnet_tiny", "regnet": "regnetx_002",
    "repghost": "repghostnet_050", "repvit": "repvit_m1", "res2net": "res2next50", "resnest": "resnest14d",
    "resnet": "test_resnet", "resnetv2": "resnetv2_18", "rexnet": "rexnet_100", "selecsls": "selecsls42",
    "senet": "legacy_seresnet18", "sequencer": "sequencer2d_s", "shvit": "shvit_s1", "sknet": "skresnet18",
    "starnet": "starnet_s050", "swiftformer": "swiftformer_xs", "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window16_256", "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "tiny_vit": "tiny_vit_5m_224", "tnt": "tnt_s_legacy_patch16_224", "tresnet": "tresnet_m",
    "twins": "twins_svt_small", "vgg": "vgg11", "visformer": "visformer_tiny", "vision_transformer": "test_vit",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224", "vision_transformer_relpos": "test_vit_relpos",
    "vision_transformer_sam": "samvit_base_patch16_224", "vitamin": "vitamin_small_224", "volo": "volo_d1_224",
    "vovnet": "ese_vovnet19b_slim_dw", "xception": "legacy_xception", "xception_aligned": "xception41p",
    "xcit": "xcit_nano_12_p8_224",
}  # fmt: skip
"""The smallest model of each family; deepseek_vit and gemma4_vit have none below 150 million parameters."""

TOO_LARGE = {"deepseek_vit", "gemma4_vit"}


def noise(size: int) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))


def check_taps(built: Built) -> None:
    """Logits are the plain network's to the bit; taps are maps, not overwritten later, and carry gradients."""
    module: Any = built.module
    every = list(range(built.tapped().stage_count))
    net = built.tapped({"all": every, "depth": [0.0, 0.5, 1.0], "vector": "embedding"})
    assert net.stages is not None
    watched = bool(net.stages.names)  # families that this timm gives no forward_intermediates
    images = noise(built.image_size)
    shapes = net.shapes(built.image_size)
    assert all(len(shape) == 3 for shape in shapes["all"])
    assert len(shapes["vector"]) == 1

    net.eval()
    with torch.no_grad():
        logits, taps = net(images)
        assert torch.equal(logits, module(images))
        for index in [] if watched else every:
            (alone,) = module.forward_intermediates(images, indices=[index], stop_early=True, intermediates_only=True)
            assert torch.equal(alone, taps["all"][index])

    net.train()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    torch.manual_seed(0)
    plain = module(images)
    module.load_state_dict(state)
    torch.manual_seed(0)
    logits, taps = net(images)
    torch.testing.assert_close(logits, plain, rtol=1e-3, atol=1e-4)
    for feat in [*taps["all"], taps["vector"]]:
        (gradient,) = torch.autograd.grad(feat.sum(), [feat])
        assert feat.requires_grad
        assert gradient.shape == feat.shape
    sum(feat.square().mean() for feat in [logits, *taps["all"], taps["vector"]]).backward()


def check_saved(built: Built, folder: Path) -> None:
    """Plain timm opens the saved folder and gives the same logits, as does kdtool."""
    module = built.module.eval()
    save_student(folder, built, module.state_dict(), list("abcdefg"))
    images = noise(built.image_size)
    with torch.no_grad():
        expected = module(images)
        opened = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        assert torch.equal(opened(images), expected)
        size = timm.data.resolve_model_data_config(opened)["input_size"]
        assert tuple(size) == (3, built.image_size, built.image_size)
        again = build(f"local-dir:{folder}", "auto", 7)
        assert torch.equal(again.module.eval()(images), expected)
    assert (again.image_size, again.needs_training) == (built.image_size, False)


@pytest.mark.parametrize("name", DIVERSE)
def test_taps_of_diverse_networks(name: str) -> None:
    check_taps(build(name, "scratch", 7, DIVERSE[name]))


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "levit_128s", "convit_tiny", "crossvit_tiny_240"])
def test_saving_diverse_networks(name: str, tmp_path: Path) -> None:
    check_saved(build(name, "scratch", 7, DIVERSE[name]), tmp_path)


@pytest.mark.slow
def test_the_list_of_families_is_complete() -> None:
    own = {"kdtool_models"}  # registered with timm too, and tested by themselves
    assert sorted(set(timm.list_modules()) - own - set(SMALLEST) - TOO_LARGE) == []


@pytest.mark.slow
@pytest.mark.parametrize("family", SMALLEST)
def test_every_family(family: str, tmp_path: Path) -> None:
    built = _smallest_build(SMALLEST[family])
    check_taps(built)
    check_saved(built, tmp_path)


def _smallest_build(name: str) -> Built:
    if not timm.is_model(name):
        pytest.skip(f"this timm has no {name}")
    for size in (32, 64, 96):
        try:
            return build(name, "scratch", 7, size)
        except InputError:
            continue
    return build(name, "scratch", 7)
