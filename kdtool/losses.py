"""Pure losses that more than one method uses. All compute in at least fp32; float64 stays float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def mean_over(entries: Tensor, share_B: Tensor | None = None) -> Tensor:
    """Return the mean of all entries.

    Args:
        entries: (B, ...).
        share_B: (B,) weights that stand for 1 / B, where rows do not count alike.
    """
    return entries.mean() if share_B is None else entries.reshape(len(entries), -1).mean(1) @ share_B.to(entries.dtype)


def at_least_fp32(x: Tensor) -> Tensor:
    """Return half-precision tensors as fp32 and others as they are: a KL in bf16 can come out negative."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def widened(x: Tensor) -> Tensor:
    """Return a tensor in float64, or in at least fp32 on a device that has no float64 (MPS)."""
    return at_least_fp32(x) if x.device.type == "mps" else x.double()


def within_one(share: Any) -> Any:
    """Return a share held within 0 and 1: a number, or a 0-dim tensor where the step is compiled or recorded (see
    ``kdtool.method.Batch.progress``), which ``min`` and ``max`` would read on the host."""
    return share.clamp(0.0, 1.0) if isinstance(share, Tensor) else min(max(share, 0.0), 1.0)


def gram(x_BD: Tensor) -> Tensor:
    """Return (..., B, B) inner products of (..., B, D) rows with one another, as ``inner`` computes them."""
    return inner(x_BD, x_BD)


def inner(x_BD: Tensor, y_CD: Tensor) -> Tensor:
    """Return (..., B, C) inner products of (..., B, D) with (..., C, D) rows, of their type, with all of fp32's digits.

    Autocast would compute them in half precision. On CUDA they are computed in float64: where ``train.tf32`` allows it,
    fp32 products are rounded to TF32's 10 bits, which makes 1 to 1.6 % of the gradient of a loss that compares small
    differences of inner products.
    """
    with torch.autocast(x_BD.device.type, enabled=False):
        wide_BD = x_BD.double() if x_BD.device.type == "cuda" else x_BD
        wide_CD = wide_BD if y_CD is x_BD else y_CD.to(wide_BD.dtype)  # rows with one another are widened once
        return (wide_BD @ wide_CD.mT).to(x_BD.dtype)


def softened_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return T^2 · KL(softmax(teacher / T) || softmax(student / T)), mean over the batch.

    Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, section 2: the factor T^2 keeps the
    gradient's size as T changes.

    Args:
        student_logits: (B, K).
        teacher_logits: (B, K).
        temperature: T > 0.
    """
    log_student = F.log_softmax(at_least_fp32(student_logits) / temperature, dim=1)
    log_teacher = F.log_softmax(at_least_fp32(teacher_logits) / temperature, dim=1)
    return temperature**2 * F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


def ensemble_logits(
    logits: Sequence[Tensor],
    weights: Sequence[float] | None = None,
    *,
    temperature: float = 1.0,
    of: str = "probabilities",
) -> Tensor:
    """Return one teacher's logits (B, K) that stand for several.

    Args:
        logits: one (B, K) tensor a teacher.
        weights: one number >= 0 a teacher, normalised to sum 1; None: equal.
        temperature: T at which the logits will be used.
        of: "probabilities": softmax(result / T) is the weighted mean of the softened probabilities; "logits": the
            weighted mean of the logits.

    Raises:
        ValueError: the weights do not fit the teachers, or sum to zero.
    """
    if weights is None:
        weights = [1.0] * len(logits)
    if len(weights) != len(logits) or sum(weights) <= 0 or min(weights) < 0:
        raise ValueError(f"{len(logits)} teachers need as many weights >= 0, not all zero; got {list(weights)}")
    if len(logits) == 1:
        return at_least_fp32(logits[0])
    stacked_TBK = torch.stack([at_least_fp32(x) for x in logits])
    share_T11 = stacked_TBK.new_tensor(weights).div(sum(weights)).view(-1, 1, 1)
    if of == "logits":
        return (share_T11 * stacked_TBK).sum(0)
    log_p_TBK = F.log_softmax(stacked_TBK / temperature, dim=2)
    return temperature * torch.logsumexp(log_p_TBK + share_T11.log(), dim=0)
