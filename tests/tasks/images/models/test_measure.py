"""Parameters and multiply-accumulates, against sums done by hand."""

from __future__ import annotations

import timm
from torch import nn

from kdtool.tasks.images.models.measure import macs, parameters


def test_a_small_network_by_hand() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1, groups=2), nn.Flatten(), nn.Linear(4 * 16, 5)
    )
    assert parameters(module) == (3 * 4 * 9 + 4) + (2 * 4 * 9 + 4) + (64 * 5 + 5)
    assert macs(module, 8) == 3 * 4 * 9 * 64 + 2 * 4 * 9 * 16 + 64 * 5


def test_shared_parameters_count_once() -> None:
    linear = nn.Linear(3 * 4, 12)
    assert parameters(nn.Sequential(nn.Flatten(), linear, linear)) == 12 * 12 + 12


def test_attention_is_counted() -> None:
    module = timm.create_model("test_vit", num_classes=7, img_size=64)
    patches, dim, depth, tokens = 16, 64, 6, 17
    hidden = module.blocks[0].mlp.fc1.out_features
    heads_dim = module.blocks[0].attn.qkv.out_features // 3
    block = tokens * dim * 3 * heads_dim + 2 * tokens * tokens * heads_dim + tokens * heads_dim * dim
    block += 2 * tokens * dim * hidden
    assert macs(module, 64) == patches * 3 * 16 * 16 * dim + depth * block + dim * 7


def test_resnet50_has_its_published_cost() -> None:
    module = timm.create_model("resnet50").train()
    assert parameters(module) == 25_557_032
    assert abs(macs(module, 224) / 1e9 - 4.09) < 0.05
    assert module.training
