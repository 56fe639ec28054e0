"""What the methods that were made for feature maps share: maps of any feature, and sequences without their padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtool.layers import as_map, map_shape, width
from kdtool.losses import at_least_fp32
from kdtool.method import Batch, Setup, Shape


def stretched(feat_BND: Tensor, mask_BN: Tensor, count: int) -> Tensor:
    """Return (B, count, D): each sequence's real tokens average-pooled into ``count`` places, whatever its length.

    A sequence of ``count`` tokens without padding stays as it is. In a shorter one places repeat tokens, so that no
    place is padding: what follows (batch norm, convolutions, means) needs no mask, and all sequences weigh the same.

    Args:
        feat_BND: (B, N, D); what stands in the padding has no effect, nor a gradient.
        mask_BN: (B, N) bool, True for real tokens. A sequence without any becomes zero.
        count: places, at least 1.
    """
    feat_BND = torch.where(mask_BN[:, :, None], at_least_fp32(feat_BND), 0.0)
    rank_BN = mask_BN.long().cumsum(1) - 1
    length_B1 = mask_BN.long().sum(1, keepdim=True)
    place_P = torch.arange(count, device=feat_BND.device)
    first_BP = place_P * length_B1 // count
    end_BP = ((place_P + 1) * length_B1 + count - 1) // count
    inside_BPN = (rank_BN[:, None] >= first_BP[:, :, None]) & (rank_BN[:, None] < end_BP[:, :, None]) & mask_BN[:, None]
    share_BPN = inside_BPN.to(feat_BND.dtype)
    share_BPN = share_BPN / share_BPN.sum(2, keepdim=True).clamp_min(1.0)
    with torch.autocast(feat_BND.device.type, enabled=False):  # it would multiply in half precision
        return share_BPN @ feat_BND


def solid_map(feat: Tensor, shape: Shape, mask_BN: Tensor | None) -> Tensor:
    """Return a feature as a map (B, C, H, W) in at least fp32; a sequence's padding is gone.

    Args:
        feat: (B, C, H, W), (B, N, D) or (B, D).
        shape: its shape as in ``Setup``, whose N is the number of places for sequences with padding.
        mask_BN: real tokens of the batch's sequences, or None.
    """
    if mask_BN is not None and feat.ndim == 3 and feat.shape[1] == mask_BN.shape[1]:
        feat = stretched(feat, mask_BN.bool(), shape[0])
    return as_map(at_least_fp32(feat))


def solid_maps(feats: Sequence[Tensor], shapes: Sequence[Shape], mask_BN: Tensor | None) -> list[Tensor]:
    """Return ``solid_map`` of each of a list of features."""
    return [solid_map(feat, shape, mask_BN) for feat, shape in zip(feats, shapes, strict=True)]


class PairedLayers:
    """The layers that a method taps in pairs, as the role "stages" of both sides.

    Attributes:
        student: shapes of the student's, as in ``Setup``.
        teachers: those of each teacher's.
    """

    def __init__(self, student: Sequence[Shape], teachers: Sequence[Sequence[Shape]]):
        self.student, self.teachers = student, teachers

    @classmethod
    def of(cls, setup: Setup) -> PairedLayers:
        """Return those that ``Setup`` tells."""
        return cls(setup.student["stages"], [shapes["stages"] for shapes in setup.teachers])

    @property
    def shapes(self) -> list[tuple[Shape, Shape]]:
        """(student's, teacher's) shape of every pair, teacher after teacher."""
        return [pair for shapes in self.teachers for pair in zip(self.student, shapes, strict=True)]

    def projections(self) -> nn.ModuleList:
        """Return for every pair a 1x1 convolution to the teacher's channels; nothing where they are the student's."""
        widths = [(width(ours), width(theirs)) for ours, theirs in self.shapes]
        return nn.ModuleList(nn.Identity() if a == b else nn.Conv2d(a, b, 1, bias=False) for a, b in widths)

    def maps(self, batch: Batch) -> list[list[tuple[Tensor, Tensor]]]:
        """Return, of each teacher, the (student's, teacher's) maps of every pair.

        Args:
            batch: a batch whose tokens, where there are any, have the student's mask on both sides.
        """
        mask_BN = batch.student.mask
        ours = solid_maps(batch.student.taps["stages"], self.student, mask_BN)
        return [
            list(zip(ours, solid_maps(out.taps["stages"], shapes, mask_BN), strict=True))
            for out, shapes in zip(batch.teachers, self.teachers, strict=True)
        ]

    def all_maps(self, batch: Batch) -> list[tuple[Tensor, Tensor]]:
        """Return the maps of every pair, teacher after teacher."""
        return [pair for pairs in self.maps(batch) for pair in pairs]


def size_of(shape: Shape) -> tuple[int, int]:
    """Return the (H, W) of a feature's map."""
    _, height, width_ = map_shape(shape)
    return height, width_


def nearest(feat_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring a map to ``size``: average-pooled where it is larger, the nearest entry repeated where it is smaller."""
    pooled = min(feat_BCHW.shape[2], size[0]), min(feat_BCHW.shape[3], size[1])
    if pooled != tuple(feat_BCHW.shape[2:]):
        feat_BCHW = F.adaptive_avg_pool2d(feat_BCHW, pooled)
    return feat_BCHW if pooled == tuple(size) else F.interpolate(feat_BCHW, size, mode="nearest")


def require_equal(student: Tensor, teacher: Tensor) -> None:
    """Refuse two features of unequal shapes with a ValueError that names both."""
    if student.shape != teacher.shape:
        raise ValueError(f"shapes differ: student {tuple(student.shape)}, teacher {tuple(teacher.shape)}")


def total(losses: Sequence[Tensor]) -> Tensor:
    """Return the sum of one or more scalars."""
    result: Tensor = sum(losses[1:], losses[0])
    return result
