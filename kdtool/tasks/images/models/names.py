"""Model names: what a user may call a network, and what timm calls it."""

from __future__ import annotations

import re
from pathlib import Path

from kdtool.errors import InputError, did_you_mean
from kdtool.recipe.names import is_own_file
from kdtool.registry import models
from kdtool.tasks.common.targets import network_folder

SOURCES = ("hf-hub:", "local-dir:")

USUAL_MEMBER = {
    "beit": "beit_base_patch16_224",
    "cait": "cait_s24_224",
    "coatnet": "coatnet_0_rw_224",
    "convmixer": "convmixer_768_32",
    "convnext": "convnext_tiny",
    "convnextv2": "convnextv2_tiny",
    "deit": "deit_small_patch16_224",
    "deit3": "deit3_small_patch16_224",
    "densenet": "densenet121",
    "dinov2": "vit_small_patch14_dinov2",
    "dla": "dla34",
    "efficientnet": "efficientnet_b0",
    "efficientnet_lite": "efficientnet_lite0",
    "efficientnetv2": "tf_efficientnetv2_s",
    "efficientvit": "efficientvit_b1",
    "eva02": "eva02_tiny_patch14_224",
    "fastvit": "fastvit_t8",
    "ghostnet": "ghostnet_100",
    "inception": "inception_v3",
    "levit": "levit_128s",
    "maxvit": "maxvit_tiny_tf_224",
    "mixer": "mixer_b16_224",
    "mlp_mixer": "mixer_b16_224",
    "mnasnet": "mnasnet_100",
    "mobilenet": "mobilenetv3_large_100",
    "mobilenetv1": "mobilenetv1_100",
    "mobilenetv2": "mobilenetv2_100",
    "mobilenetv3": "mobilenetv3_large_100",
    "mobilenetv3_large": "mobilenetv3_large_100",
    "mobilenetv3_small": "mobilenetv3_small_100",
    "mobilenetv4": "mobilenetv4_conv_small",
    "mobilevit": "mobilevit_s",
    "mobilevitv2": "mobilevitv2_100",
    "poolformer": "poolformer_s12",
    "pvt": "pvt_v2_b1",
    "pvtv2": "pvt_v2_b1",
    "regnet": "regnety_032",
    "regnetx": "regnetx_032",
    "regnety": "regnety_032",
    "repvgg": "repvgg_b0",
    "resnet": "resnet50",
    "resnetv2": "resnetv2_50",
    "resnext": "resnext50_32x4d",
    "semnasnet": "semnasnet_100",
    "seresnet": "seresnet50",
    "swin": "swin_tiny_patch4_window7_224",
    "swin_tiny": "swin_tiny_patch4_window7_224",
    "swin_small": "swin_small_patch4_window7_224",
    "swin_base": "swin_base_patch4_window7_224",
    "swinv2": "swinv2_tiny_window8_256",
    "vgg": "vgg16",
    "vit": "vit_base_patch16_224",
    "vit_tiny": "vit_tiny_patch16_224",
    "vit_small": "vit_small_patch16_224",
    "vit_base": "vit_base_patch16_224",
    "vit_large": "vit_large_patch16_224",
    "wide_resnet": "wide_resnet50_2",
    "wideresnet": "wide_resnet50_2",
    "xception": "xception41",
    "xcit": "xcit_small_12_p16_224",
}
"""The member that people mean by a family's name; other families resolve to their shortest name."""


def every_name() -> list[str]:
    """Return the families' names and all of timm's models, those of plugins included. Imports timm."""
    import timm

    models.register()
    return [*USUAL_MEMBER, *timm.list_models()]


def resolve(name: str) -> tuple[str, str | None]:
    """Return the name that timm knows, and a note such as "resnet -> resnet50" where it is another one.

    ``hf-hub:``, ``local-dir:`` and ``path/to/file.py:function`` are returned as they are; a folder that holds a network
    is a ``local-dir:``, with or without these words, and a run's folder that of its student.

    Raises:
        InputError: unknown; the message names the nearest names. Or a run without a student.
    """
    if name.startswith("hf_hub:"):
        name = "hf-hub:" + name[len("hf_hub:") :]
    if is_own_file(name):
        return name, None
    models.register()  # what a folder or the hub holds may be one of those networks
    if name.startswith(SOURCES):
        return _in_folder(name)
    import timm

    base, dot, tag = name.partition(".")
    if timm.is_model(base):
        _check_tag(base, dot, tag)
        return name, None
    if network_folder(name) is not None:
        return _in_folder(f"local-dir:{name}")
    member = _member(base)
    if member is None:
        raise InputError(_unknown(name))
    _check_tag(member, dot, tag)
    return member + dot + tag, f"{name} -> {member + dot + tag}"


def _in_folder(name: str) -> tuple[str, str | None]:
    """Return where a saved network lies, and a note where that is in a run's folder."""
    kind, _, place = name.partition(":")
    folder = network_folder(place) if kind == "local-dir" else None
    if folder is None or folder == Path(place).expanduser():
        return name, None
    return f"local-dir:{folder}", f"{place} is a run: its student is meant (local-dir:{folder})"


def _plain(name: str) -> str:
    """Return a name without case and separators, so that ResNet-50 and resnet_50 are resnet50."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _member(name: str) -> str | None:
    """Return the timm name that a family's name, or another spelling, stands for."""
    import timm

    known, plain = timm.list_models(), _plain(name)
    if not plain:
        return None
    for alias, member in USUAL_MEMBER.items():
        if _plain(alias) == plain and timm.is_model(member):
            return member
    same = [model for model in known if _plain(model) == plain]
    if same:
        return str(same[0])
    # A family's name ends where a word or a number begins: "resnet" is a family, "resnet5" a typing error.
    family = re.compile(re.escape(name.lower().replace("-", "_")) + (r"_" if name[-1].isdigit() else r"(_|\d)"))
    members = [model for model in known if family.match(model)]
    pretrained = set(timm.list_models(pretrained=True))
    trained = {model.partition(".")[0] for model in pretrained}
    members.sort(key=lambda model: (model not in trained, len(model), model))
    return str(members[0]) if members else None


def _check_tag(base: str, dot: str, tag: str) -> None:
    import timm

    if not dot:
        return
    tags = [model.partition(".")[2] for model in timm.list_models(base + ".*", pretrained=True)]
    if tag not in tags:
        hint = did_you_mean(tag, tags) if tags else "It has no pretrained weights."
        raise InputError(f"{base} has no weights called {tag!r}. {hint}")


def _unknown(name: str) -> str:
    import timm

    if name and Path(name).is_dir():
        return f"{name!r} is a folder; to load a model from it, write local-dir:{name}"
    if Path(name).is_file():
        return (
            f"{name!r} is a file, not a model. Give weights as --teacher-weights or --student-weights, "
            "and your own architecture as path/to/file.py:function."
        )
    if "/" in name:
        return f"unknown model {name!r}. A model of the Hugging Face hub is hf-hub:{name}, a folder local-dir:{name}"
    hint = did_you_mean(name.lower(), [*timm.list_models(), *USUAL_MEMBER])
    return (
        f"unknown model {name!r}. {hint} Models are named as in timm (timm.list_models()), or hf-hub:OWNER/NAME, "
        "local-dir:FOLDER, or path/to/file.py:FUNCTION for your own."
    )
