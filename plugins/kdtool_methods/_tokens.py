"""What the methods that were made for transformers share: which layers pair, and two token sequences side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from kdtool.errors import InputError
from kdtool.layers import as_map, common_size, resize_map, width
from kdtool.losses import at_least_fp32
from kdtool.method import Layer, Shape, Taps

LIKELY_BLOCKS = 16
"""Where a network's number of layers is not given. With it, a half is met exactly in networks of 2, 4, 6, 12 and 24
layers, quarters in those of 8, 12 and 24, thirds in those of 6, 12 and 24."""


def block_depth(share: float, blocks: int | None = None) -> float:
    """Return the relative depth of the last of the first ``share`` of a network's transformer layers.

    Layers are counted from 1, so that half of twelve is the sixth; the network's stages are its layers.

    Args:
        share: in (0, 1]; 1 is the last layer.
        blocks: how many layers there are; None: not known, and the depth is right for most networks.
    """
    if share >= 1 or blocks == 1:
        return 1.0
    count = blocks or LIKELY_BLOCKS
    number = share * count if blocks is None else round(share * count)
    return max(number - 1, 0) / (count - 1)


def attention_tap(kind: str, depth: float) -> str:
    """Return the tap of a layer's self-attention at a relative depth.

    Args:
        kind: "attention", its maps, or "queries", "keys" or "values".
        depth: in [0, 1]; it is written with a point, since "1" is the second layer and "1.0" the last.
    """
    return f"{kind}:{depth:.6f}"


def pair_layers(
    method: str,
    student: Sequence[Layer],
    teacher: Sequence[Layer],
    student_layers: Sequence[str] | None,
    teacher_layers: Sequence[str] | None,
) -> Taps:
    """Tap pairs of layers as the role "stages" of both sides, each side's as given or as named by the user.

    Args:
        method: name of the method, for the error message.
        student, teacher: each side's layers where the user names none.
        student_layers, teacher_layers: the options of the method by these names.

    Raises:
        InputError: unequal numbers of layers.
    """
    ours, theirs = list(student_layers or student), list(teacher_layers or teacher)
    if len(ours) != len(theirs):
        raise InputError(
            f"{method}: {len(ours)} student layer(s) {ours} do not pair with {len(theirs)} teacher layer(s) {theirs}: "
            f"give {method}.student_layers and {method}.teacher_layers as many names, in the same order."
        )
    return Taps(student={"stages": ours}, teacher={"stages": theirs})


def side_by_side(student: Tensor, teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return two features as token sequences (B, L, D) of one length, and the mask of their real tokens.

    Sequences of one length stay as they are. Other pairs are compared as maps: the larger one is average-pooled, and
    every position is a token.

    Args:
        student, teacher: (B, N, D), (B, C, H, W) or (B, D); the widths may differ.
        mask: (B, N) the real ones among the tokens of the sequences, or their weights; None: all are real.

    Raises:
        ValueError: there is padding, but the two have not one token for each token.
    """
    if student.ndim == teacher.ndim == 3 and student.shape[1] == teacher.shape[1]:
        return student, teacher, mask
    if mask is not None and 3 in (student.ndim, teacher.ndim):
        raise ValueError(
            f"features of {tuple(student.shape[1:])} and {tuple(teacher.shape[1:])} have not one token for each token, "
            "and cannot be resampled where there is padding"
        )
    maps = as_map(student), as_map(teacher)
    size = common_size(maps[0].shape[1:], maps[1].shape[1:])
    s_BLD, t_BLD = (resize_map(feat, size).flatten(2).transpose(1, 2) for feat in maps)
    return s_BLD, t_BLD, None


def real_tokens(feat_BLD: Tensor, mask_BL: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return what tokens weigh, 1 where nothing else is said, and the sequence in at least fp32 with zeros as padding.

    Zeros: what stands in the padding then has neither a part in a loss nor a gradient, not even a NaN.

    Raises:
        ValueError: the mask is not one value a token: of another shape it might be stretched over all tokens.
    """
    feat_BLD = at_least_fp32(feat_BLD)
    require_mask(mask_BL, feat_BLD.shape[:2])
    if mask_BL is None:
        return torch.ones(feat_BLD.shape[:2], dtype=feat_BLD.dtype, device=feat_BLD.device), feat_BLD
    return mask_BL.to(feat_BLD.dtype), torch.where((mask_BL > 0)[:, :, None], feat_BLD, 0.0)


def require_mask(mask_BL: Tensor | None, tokens: Sequence[int]) -> None:
    """Refuse a mask of another shape than (samples, tokens).

    Raises:
        ValueError: it is of another.
    """
    if mask_BL is not None and tuple(mask_BL.shape) != tuple(tokens):
        raise ValueError(f"a mask of {tuple(mask_BL.shape)} does not fit {tokens[0]} samples of {tokens[1]} tokens")


class Projections(nn.Module):
    """Learned linear layers from the student's widths to the teachers', one for each pair of widths.

    So all layers of a transformer share one, as where a paper writes one matrix, and the stages of a CNN do not.

    Args:
        pairs: (student's shape, teacher's shape) of all features that will come.
        always: also for equal widths; else those pass unchanged.
    """

    def __init__(self, pairs: Iterable[tuple[Shape, Shape]], always: bool = False):
        super().__init__()
        widths = dict.fromkeys((width(student), width(teacher)) for student, teacher in pairs)
        self.layers = nn.ModuleDict({_key(*each): nn.Linear(*each) for each in widths if always or each[0] != each[1]})

    def forward(self, feat: Tensor, target: int) -> Tensor:
        """Return (..., target) of a feature (..., D)."""
        key = _key(feat.shape[-1], target)
        if key not in self.layers:
            return feat
        projected: Tensor = self.layers[key](feat)
        return projected


def _key(student: int, teacher: int) -> str:
    return f"{student}_{teacher}"
