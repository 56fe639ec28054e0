"""Further views of images beside the usual one: a strong one, and turns by a quarter."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kdtool.randomness import key_of
from kdtool.tasks.common.side_by_side import SideBySide
from kdtool.tasks.images.options import Data

TURNS = {"rotated90": 1, "rotated180": 2, "rotated270": 3}


def with_views(read: Callable[[Data], Any], cfg: Data, views: Sequence[str]) -> Any:
    """Return batches with further views of each image.

    Args:
        read: returns the batches that a section ``data`` asks for.
        cfg: the recipe's.
        views: names, of "strong" and those of ``TURNS``.
    """
    usual = read(cfg)
    if not views:
        return usual
    further = {view: partial(_turned, TURNS[view]) if view in TURNS else _strong(read, cfg, usual) for view in views}
    return SideBySide(usual, further)


def _strong(read: Callable[[Data], Any], cfg: Data, usual: Any) -> Any:
    """Return the batches of the strong view, whose draws are its own."""
    seed = key_of("strong view", cfg.view_seed) & 0x7FFFFFFF
    strong = read(dataclasses.replace(cfg, auto_augment=cfg.strong, erase=1.0, view_seed=seed))
    strong.views.mixing = usual.views.mixing  # the same partners, since the labels are the same
    return strong


def _turned(quarters: int, images: Tensor) -> Tensor:
    channels_last = images.is_contiguous(memory_format=torch.channels_last)
    turned = torch.rot90(images, quarters, (2, 3))
    return turned.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
