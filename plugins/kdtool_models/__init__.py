"""Small networks of the distillation papers, registered with timm by importing this package.

For 32x32 images, as in Tian et al., "Contrastive Representation Distillation", ICLR 2020; checkpoints of its public
code load into them. Their stages are that code's feature maps in order, the stem first. Networks that timm has at
another image size carry ``_cifar`` in their names. For MNIST, the perceptrons of Hinton et al., 2015.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from kdtool_models.mlp import MLP
from kdtool_models.mobilenet import mobilenetv2
from kdtool_models.residual import Bottleneck, resnet, wide_resnet
from kdtool_models.shufflenet import shufflenet_v1, shufflenet_v2
from kdtool_models.vgg import vgg

CIFAR: dict[str, Any] = {
    "num_classes": 100,
    "input_size": (3, 32, 32),
    "pool_size": (8, 8),
    "crop_pct": 1.0,
    "interpolation": "bicubic",
    "mean": (0.5071, 0.4867, 0.4408),
    "std": (0.2675, 0.2565, 0.2761),
    "first_conv": "conv1",
    "classifier": "fc",
}
MNIST: dict[str, Any] = {
    **CIFAR,
    "num_classes": 10,
    "input_size": (3, 28, 28),
    "fixed_input_size": True,
    "pool_size": None,
    "mean": (0.0, 0.0, 0.0),
    "std": (1.0, 1.0, 1.0),
    "first_conv": None,
}

RENAMED = (
    ("blocks.", "block"),
    (".layer.", "."),
    ("downsample", "shortcut"),
    ("convShortcut", "shortcut"),
    ("classifier.0.", "fc."),
    ("classifier.", "fc."),
    ("linear.", "fc."),
)
"""Parts of names in checkpoints of Tian et al.'s code, and what they are called here."""

default_cfgs: dict[str, Any] = {}
"""timm looks for configurations under this name, in the module of what it registers."""


def renamed(state: Mapping[str, Tensor], _: nn.Module) -> dict[str, Tensor]:
    """Return a checkpoint's weights under this package's names."""
    found = {}
    for name, value in state.items():
        for theirs, ours in RENAMED:
            name = name.replace(theirs, ours)
        found[name] = value
    return found


def register(name: str, make: Callable[..., nn.Module], cfg: Mapping[str, Any] = CIFAR, **fixed: Any) -> None:
    """Register a network with timm.

    Args:
        name: what ``timm.create_model`` is to call it.
        make: builds it; takes num_classes, in_chans and the like.
        cfg: its input and its place in timm's scheme.
        fixed: arguments of ``make`` that are this variant's.
    """

    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        network: nn.Module = build_model_with_cfg(
            make,
            name,
            pretrained,
            pretrained_filter_fn=renamed,
            feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
            **{**fixed, **kwargs},
        )
        return network

    entrypoint.__name__ = entrypoint.__qualname__ = name
    default_cfgs.update(generate_default_cfgs({name: dict(cfg)}))
    register_model(entrypoint)


for depth in (8, 14, 20, 32, 44, 56, 110):
    register(f"resnet{depth}", resnet, counts=[(depth - 2) // 6] * 3)
for depth in (8, 32):
    register(f"resnet{depth}x4", resnet, counts=[(depth - 2) // 6] * 3, widths=(64, 128, 256), stem=32)
register("resnet50_cifar", resnet, counts=(3, 4, 6, 3), widths=(64, 128, 256, 512), stem=64, block=Bottleneck)
for depth, widen in ((16, 1), (16, 2), (40, 1), (40, 2)):
    register(f"wrn_{depth}_{widen}", wide_resnet, depth=depth, widen=widen)
register("vgg8", vgg, counts=(1, 1, 1, 1, 1))
register("vgg13_cifar", vgg, counts=(2, 2, 2, 2, 2))
register("mobilenetv2_050_cifar", mobilenetv2, width=0.5)
register("shufflenet_v1", shufflenet_v1)
register("shufflenet_v2", shufflenet_v2)
for units in (1200, 800, 300, 30):
    register(f"mlp_{units}", MLP, MNIST, hidden=(units, units))
