"""Blocks that make a student's feature comparable with a teacher's: channels, space and tokens.

Features come as maps (B, C, H, W), token sequences (B, N, D) or vectors (B, D); shapes leave the batch out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtool.errors import InputError
from kdtool.losses import at_least_fp32
from kdtool.method import Batch, Layer, Own, Parts, Shape, Taps


def resize_map(feat_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring a map to ``size`` (H, W): average-pooled where it is larger, bilinear where it is smaller."""
    if tuple(feat_BCHW.shape[2:]) == tuple(size):
        return feat_BCHW
    pooled = (min(feat_BCHW.shape[2], size[0]), min(feat_BCHW.shape[3], size[1]))
    feat_BCHW = F.adaptive_avg_pool2d(feat_BCHW, pooled)
    if pooled == tuple(size):
        return feat_BCHW
    return F.interpolate(feat_BCHW, size, mode="bilinear", align_corners=False)


class Resampler:
    """Brings maps of two features to one size; not at all where the two were measured to have one.

    A sequence is as long as the longest text of its batch: where two networks gave as many tokens in the dry forward,
    they do in every batch, however many that are.

    Args:
        first, second: shapes of the two features, without the batch.
        size: (H, W) to which maps are brought where they differ; default: ``common_size``.
    """

    def __init__(self, first: Shape, second: Shape, size: tuple[int, int] | None = None):
        self.same = map_shape(first)[1:] == map_shape(second)[1:]
        self.size = size or common_size(first, second)

    def __call__(self, feat_BCHW: Tensor) -> Tensor:
        """Return the map at that size."""
        return feat_BCHW if self.same else resize_map(feat_BCHW, self.size)


def packed(feat: Tensor, mask_BN: Tensor | None) -> Tensor:
    """Return the real tokens of a sequence (B, N, D) as (R, D), each a sample of its own; any other feature unchanged.

    What is computed of them cannot depend on padding, whatever layers it passes through.
    """
    return feat if mask_BN is None or feat.ndim != 3 else feat[mask_BN]


def token_weights(batch: Batch) -> Tensor | None:
    """Return weights (B, N) of a sequence's tokens, for means over them; None where there is no padding.

    Where a row is a sequence, each counts alike however long it is, its real tokens 1 / their number: so a batch in
    parts, each weighted by its rows, is the batch as a whole. Where a row is a token, the mask: real ones count alike.
    """
    mask_BN = batch.student.mask
    if mask_BN is None or len(batch.index) != len(mask_BN):
        return mask_BN
    mask_BN = mask_BN.to(torch.promote_types(batch.student.logits.dtype, torch.float32))
    return mask_BN / mask_BN.sum(1, keepdim=True).clamp(min=1)


def token_shares(batch: Batch, feats: Sequence[Tensor]) -> list[Tensor | None]:
    """Return (R,) weights that stand for 1 / R in a mean over ``packed`` tokens, see ``token_weights``; None: 1 / R.

    Args:
        batch: whose student has a mask or not.
        feats: what is packed, each with its shares; what is no sequence has none.
    """
    weight_BN = token_weights(batch)
    if weight_BN is None or not weight_BN.is_floating_point():
        return [None] * len(feats)
    share_R = weight_BN[batch.student.mask] / len(weight_BN)
    return [share_R if feat.ndim == 3 else None for feat in feats]


def token_mean(feat: Tensor, mask_BN: Tensor | None) -> Tensor:
    """Return the mean of a sequence's real tokens, (B, D), where there is a mask; any other feature unchanged.

    What stands in the padding has no effect, nor a gradient, not even a NaN.
    """
    if mask_BN is None or feat.ndim != 3:
        return feat
    mask_BN = mask_BN.bool()
    return torch.where(mask_BN.unsqueeze(2), feat, 0.0).sum(1) / mask_BN.sum(1, keepdim=True).clamp(min=1)


def as_map(feat: Tensor) -> Tensor:
    """Return any feature as (B, C, H, W): tokens become (B, D, N, 1), vectors (B, D, 1, 1)."""
    if feat.ndim == 4:
        return feat
    if feat.ndim == 3:
        return feat.transpose(1, 2).unsqueeze(3)
    return feat[:, :, None, None]


def as_vector(feat: Tensor) -> Tensor:
    """Return any feature as (B, C): maps and tokens are averaged over space."""
    if feat.ndim == 4:
        return feat.mean((2, 3))
    return feat.mean(1) if feat.ndim == 3 else feat


def map_shape(shape: Shape) -> tuple[int, int, int]:
    """Return the (C, H, W) that ``as_map`` gives for a feature of this shape."""
    if len(shape) == 3:
        return shape[0], shape[1], shape[2]
    if len(shape) == 2:
        return shape[1], shape[0], 1
    return shape[0], 1, 1


def width(shape: Shape) -> int:
    """Return the number of channels of a feature: C of (C, H, W), D of (N, D) or (D,)."""
    return map_shape(shape)[0]


def common_size(first: Shape, second: Shape) -> tuple[int, int]:
    """Return the (H, W) to which the larger of two features' maps is pooled, each side on its own."""
    (_, *a), (_, *b) = map_shape(first), map_shape(second)
    return min(a[0], b[0]), min(a[1], b[1])


def classifier_of(parts: Parts, method: str, whose: str) -> Own:
    """Return a network's classifier.

    Args:
        parts: the network's.
        method: name of the method, for the error message.
        whose: "student" or "teacher", for the error message.

    Raises:
        InputError: it has none that can be applied to features.
    """
    if isinstance(parts.classifier, str):
        raise InputError(
            f"{method} applies the {whose}'s classifier to features, and cannot here: {parts.classifier}. Choose "
            f"another {whose}, or a method that does without (kdtool list-methods --for TEACHER STUDENT)."
        )
    return parts.classifier


def classify(classifier: Own, feat: Tensor, bias: bool = True) -> Tensor:
    """Return what a classifier gives at every position of a feature, in at least fp32.

    Args:
        classifier: of ``classifier_of``.
        feat: (B, D), (B, N, D) or (B, D, H, W); the result has K in the place of D.
        bias: add the classifier's.
    """
    feat = at_least_fp32(feat)
    weight_KD = classifier.weight.flatten(1).to(feat.device, feat.dtype)
    bias_K = None if classifier.bias is None or not bias else classifier.bias.to(feat.device, feat.dtype)
    with torch.autocast(feat.device.type, enabled=False):
        if feat.ndim == 4:
            return F.conv2d(feat, weight_KD[:, :, None, None], bias_K)
        return F.linear(feat, weight_KD, bias_K)


def copied(classifier: Own, place: nn.Module) -> nn.Module:
    """Return a copy of a classifier that can stand in the place of another: a 1x1 convolution where that is one.

    Args:
        classifier: as it is now.
        place: the layer in whose place it is to stand; device and type are its.
    """
    weight_KD, bias = classifier.weight.detach().flatten(1), classifier.bias
    classes, width = weight_KD.shape
    layer = nn.Conv2d if isinstance(place, nn.Conv2d) else nn.Linear
    size = {"kernel_size": 1} if layer is nn.Conv2d else {}
    found: nn.Module = nn.utils.skip_init(layer, width, classes, bias=bias is not None, **size)
    with torch.no_grad():
        found.get_parameter("weight").copy_(weight_KD.view_as(found.get_parameter("weight")))
        if bias is not None:
            found.get_parameter("bias").copy_(bias)
    return found.to(place.weight)  # type: ignore[arg-type]


def unit_rows(feat: Tensor) -> Tensor:
    """Return (B, N): each sample flattened and divided by its L2 norm, whatever its size. A zero sample stays zero.

    Its gradient is not blown up either, as it is where the norm is merely kept above a tiny number.
    """
    flat_BN = feat.flatten(1)
    flat_BN = flat_BN * _near_one(torch.linalg.vector_norm(flat_BN.detach(), torch.inf, dim=1, keepdim=True))
    norm_B1 = torch.linalg.vector_norm(flat_BN, dim=1, keepdim=True)
    return flat_BN / torch.where(norm_B1 > 0, norm_B1, 1.0)


def _near_one(largest_B1: Tensor) -> Tensor:
    """Return a factor for each row that brings its largest entry near 1: squares of fp32's 1e-30 are zero, those of
    1e30 infinite. It is a power of two, and rounds nothing."""
    most = -math.log2(torch.finfo(largest_B1.dtype).tiny)  # powers that a factor can have
    power_B1 = largest_B1.log2().floor().clamp(-most, most)
    return torch.where(largest_B1 > 0, torch.exp2(-power_B1), 1.0)


def layer_pairs(
    method: str,
    depths: Sequence[float],
    student_layers: Sequence[str] | None,
    teacher_layers: Sequence[str] | None,
    before_activation: bool = False,
) -> Taps:
    """Tap pairs of layers as the role "stages" of both sides: the relative depths, or layers named by the user.

    Args:
        method: name of the method, for the error message.
        depths: relative depths in [0, 1], used on each side that names no layers.
        student_layers: dotted module names of the student; the option ``student_layers`` of the method.
        teacher_layers: those of the teacher; the option ``teacher_layers``.
        before_activation: read the depths before their activations, see ``kdtool.method.Layer``.

    Raises:
        InputError: no layers, or unequal numbers of them.
    """
    places = [f"{float(depth)}:pre" for depth in depths] if before_activation else depths
    student: list[Layer] = list(student_layers or places)
    teacher: list[Layer] = list(teacher_layers or places)
    if not student or len(student) != len(teacher):
        raise InputError(
            f"{method}: {len(student)} student layer(s) {student} do not pair with {len(teacher)} teacher layer(s) "
            f"{teacher}: give {method}.student_layers and {method}.teacher_layers as many names, in the same order."
        )
    return Taps(student={"stages": student}, teacher={"stages": teacher})


def paired_stages(batch: Batch) -> list[tuple[Tensor, Tensor]]:
    """Return (student's feature, teacher's feature) for every pair of ``layer_pairs``, teacher after teacher."""
    return [
        pair
        for teacher in batch.teachers
        for pair in zip(batch.student.taps["stages"], teacher.taps["stages"], strict=True)
    ]


def paired_tokens(batch: Batch) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    """Return the pairs of ``paired_stages`` and their ``token_shares``; of sequences with a mask the real tokens alone,
    see ``packed``."""
    mask, pairs = batch.student.mask, paired_stages(batch)
    shares = token_shares(batch, [teacher for _, teacher in pairs])
    return [
        (packed(student, mask), packed(teacher, mask), share_B)
        for (student, teacher), share_B in zip(pairs, shares, strict=True)
    ]


class Regressor(nn.Module):
    """Maps a student's feature to the shape of a teacher's: a learned convolution, or a linear layer for tokens.

    A convolution takes maps; its stride brings a larger student map to the teacher's size (kernel 2·stride - 1, so
    that it sees every position), and what remains is resized. Two token sequences, or two vectors, meet through a
    linear layer, tokens also resampled to the teacher's count. Any other pair is compared as maps.

    Args:
        student: shape of the student's feature, without the batch.
        teacher: shape of the teacher's feature.
    """

    def __init__(self, student: Shape, teacher: Shape):
        super().__init__()
        self.teacher = tuple(teacher)
        self.plain = len(student) == len(teacher) < 3
        self.resampler = Resampler(student, teacher, map_shape(teacher)[1:])
        if self.plain:
            self.project: nn.Module = nn.Linear(width(student), width(teacher))
            return
        (c_in, h_in, w_in), (c_out, h_out, w_out) = map_shape(student), map_shape(teacher)
        stride = max(1, h_in // h_out), max(1, w_in // w_out)
        self.project = nn.Conv2d(
            c_in,
            c_out,
            kernel_size=(2 * stride[0] - 1, 2 * stride[1] - 1),
            stride=stride,
            padding=(stride[0] - 1, stride[1] - 1),
        )

    def forward(self, feat: Tensor) -> Tensor:
        """Return the feature as (B, *teacher shape)."""
        if self.plain:
            out: Tensor = self.project(feat)
            if out.ndim == 3 and not self.resampler.same:
                out = F.interpolate(out.transpose(1, 2), self.teacher[0], mode="linear").transpose(1, 2)
            return out
        # A convolution with a stride brings a map near the teacher's size by itself.
        out = resize_map(self.project(as_map(feat)), self.resampler.size)
        if len(self.teacher) == 2:
            return out.flatten(2).transpose(1, 2)
        return out.flatten(1) if len(self.teacher) == 1 else out
