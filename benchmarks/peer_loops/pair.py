"""The images' pair, its ready batches, and what all loops train it with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

TEACHER, STUDENT, CLASSES = "resnet32x4", "resnet8x4", 100
HARD, SOFT, TEMPERATURE = 0.1, 0.9, 4.0
"""Weights of the labels and of the teacher (Tian et al., 2020), and T."""
SGD = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}


def ready(work: str) -> list[tuple[Tensor, Tensor]]:
    """Return the batches, (B, 3, 32, 32) and (B,) each."""
    found: list[tuple[Tensor, Tensor]] = torch.load(Path(work) / "images.pt")
    return found


def of_timm() -> tuple[nn.Module, nn.Module]:
    """Return teacher and student for a peer that takes any network: kdtool's own, which timm builds by name."""
    import timm

    import kdtool_models  # noqa: F401 - registers them

    made: Any = [timm.create_model(name, num_classes=CLASSES) for name in (TEACHER, STUDENT)]
    return made[0], made[1]
