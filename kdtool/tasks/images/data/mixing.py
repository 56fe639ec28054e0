"""Mixup and cutmix as functions of the sample: partner, amount and box follow from (view_seed, view, row).

Zhang et al., "mixup", ICLR 2018; Yun et al., "CutMix", ICCV 2019.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtool.randomness import uniforms


@dataclass(frozen=True)
class Mixing:
    """How samples are mixed.

    Args:
        mixup: alpha of mixup's Beta distribution; 0: off.
        cutmix: alpha of cutmix's; 0: off. With both on, a coin decides for each sample.
        view_seed: ``data.view_seed``.
    """

    mixup: float
    cutmix: float
    view_seed: int

    @property
    def on(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0

    def partners(self, rows_B: Tensor, view: int, count: int) -> Tensor:
        """Return each sample's partner as a position in a split of ``count`` samples."""
        drawn = uniforms(rows_B, "partner", self.view_seed, view)
        return (drawn * count).long().clamp(max=count - 1)

    def _amounts(self, rows_B: Tensor, view: int, alpha: float) -> Tensor:
        from scipy.stats import beta

        drawn = uniforms(rows_B.cpu(), "amount", self.view_seed, view).numpy()
        return torch.from_numpy(beta.ppf(drawn, alpha, alpha)).clamp(0, 1)

    def weights(self, rows_B: Tensor, view: int, size: int) -> Tensor:
        """Return, as (B, size, size), the share of each of a sample's pixels that is its own.

        The mean over a sample's pixels is the share of its own label.
        """
        rows_B = rows_B.cpu()
        cut_B = torch.full(rows_B.shape, self.mixup == 0)
        if self.mixup > 0 and self.cutmix > 0:
            cut_B = uniforms(rows_B, "mix kind", self.view_seed, view) < 0.5
        own_B = torch.ones(rows_B.shape, dtype=torch.float64)
        if self.mixup > 0:
            own_B = torch.where(cut_B, own_B, self._amounts(rows_B, view, self.mixup))
        shares_BHW = own_B[:, None, None].expand(-1, size, size).float()
        if self.cutmix == 0:
            return shares_BHW
        outside_BHW = ~self._boxes(rows_B, view, size)
        return torch.where(cut_B[:, None, None], outside_BHW.float(), shares_BHW)

    def _boxes(self, rows_B: Tensor, view: int, size: int) -> Tensor:
        """Return (B, size, size) masks of the boxes that the partner fills."""
        side_B = torch.sqrt(1 - self._amounts(rows_B, view, self.cutmix)) * size
        inside = []
        for axis in ("y", "x"):
            centre_B = uniforms(rows_B, f"box {axis}", self.view_seed, view) * size
            at_S = torch.arange(size) + 0.5
            inside.append((at_S - centre_B[:, None]).abs() < side_B[:, None] / 2)
        return inside[0][:, :, None] & inside[1][:, None, :]


def mix_labels(own_B: Tensor, partner_B: Tensor, share_B: Tensor, num_classes: int) -> Tensor:
    """Return (B, K) float32 labels: each side's one-hot row by its share; rows of zeros where neither has a label."""
    share_B1 = share_B[:, None].float()
    return share_B1 * _one_hot(own_B, num_classes) + (1 - share_B1) * _one_hot(partner_B, num_classes)


def _one_hot(labels_B: Tensor, num_classes: int) -> Tensor:
    return F.one_hot(labels_B.clamp(min=0), num_classes).float() * labels_B.ge(0)[:, None]
