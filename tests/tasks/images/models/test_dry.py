"""Dry forwards leave no trace, in networks that make buffers as they run too."""

from __future__ import annotations

import timm
import torch

from kdtool.engine.dry import undisturbed
from kdtool.tasks.images.models.build import build
from kdtool.tasks.images.models.dry import dry_images, runnable_size


def test_buffers_made_at_the_first_forward_are_put_back() -> None:
    module = timm.create_model("convit_tiny", num_classes=3, img_size=32).eval()
    buffers = dict(module.named_buffers())
    images = torch.randn(2, 3, 32, 32)
    with undisturbed(module):
        expected = module(images)
    assert all(buffer is buffers[name] for name, buffer in module.named_buffers())
    with torch.no_grad():
        assert torch.equal(module(images), expected)


def test_a_size_that_the_network_takes() -> None:
    assert runnable_size(build("test_vit", "scratch", 3, 48).module) == 48
    assert runnable_size(build("test_resnet", "scratch", 3, 32).module) == 160
    linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64 * 64, 2))
    assert runnable_size(linear) == 64


def test_dry_images_are_always_the_same_and_of_the_networks_type() -> None:
    module = torch.nn.Conv2d(3, 1, 1).double()
    assert dry_images(module, 8).dtype is torch.float64
    assert torch.equal(dry_images(module, 8), dry_images(module, 8))
