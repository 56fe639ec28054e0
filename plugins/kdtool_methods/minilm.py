"""MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained Transformers. Wang et al.,
Findings of ACL 2021. https://arxiv.org/abs/2012.15828
MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers. Wang et al.,
NeurIPS 2020. https://arxiv.org/abs/2002.10957

A relation of one layer says how much each token belongs to each: the softmax of scaled dot-products of its vectors.
Version 2 relates queries with queries, keys with keys and values with values; version 1 queries with keys, which is the
attention itself, and values with values. Vectors of all attention heads stand in a row and are split anew into relation
heads, so that networks of any widths and heads compare; in version 1 set ``heads`` to the number of attention heads.

``qkv=true`` relates queries, keys and values of the self-attention at a depth, where the task finds them (encoders of
transformers). Elsewhere name the modules that give them, three or one that gives all in a row, in ``student_qkv`` and
``teacher_qkv`` (``blocks.11.attn.qkv``); PyTorch's own ``nn.MultiheadAttention`` has no such modules. The default
relates hidden states, from which an attention computes all three: every network has them, and it is no longer the
papers' loss. They distil a language model before its task; here both are learned together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtool import Batch, Method, Setup, Taps, option
from kdtool.errors import InputError
from kdtool.layers import common_size, token_weights, width
from kdtool.method import Layer, Shape
from kdtool_methods._tokens import attention_tap, real_tokens, side_by_side

LAST, BEFORE_LAST = 1.0, 0.87  # relative depths
PAPER_HEADS, PAPER_LEAST = 48, 8  # relation heads, and the fewest channels of one: a student of width 384


def relation_loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    heads: int = 1,
    *,
    student_keys: Tensor | None = None,
    teacher_keys: Tensor | None = None,
) -> Tensor:
    """Return KL(teacher's relations || student's), mean over batch, heads and real query tokens; 0 where none is real.

    The relation of head h, whose vectors are the h-th of ``heads`` equal parts of the channels, is a row's softmax over
    the real tokens of x_i · y_j / sqrt(channels of the part).

    Args:
        student: vectors x (B, L, D): queries, keys, values or hidden states.
        teacher: (B, L, E), any width.
        mask: (B, L) bool, True for real tokens, all of which weigh the same, or what each query weighs, 0 for padding;
            None: all are real.
        heads: relation heads, a divisor of D and of E.
        student_keys, teacher_keys: vectors y of the shape of x; default: x themselves.

    Raises:
        ValueError: the sequences differ in size, the mask does not fit them, or ``heads`` does not divide their widths.
    """
    if student.shape[:2] != teacher.shape[:2]:
        raise ValueError(f"sequences differ: student {tuple(student.shape)}, teacher {tuple(teacher.shape)}")
    weight_BL, _ = real_tokens(student, mask)
    mask = weight_BL > 0
    log_s_BHLL = _log_relation(student, student if student_keys is None else student_keys, mask, heads)
    log_t_BHLL = _log_relation(teacher, teacher if teacher_keys is None else teacher_keys, mask, heads)
    kl_BHL = (log_t_BHLL.exp() * (log_t_BHLL - log_s_BHLL)).sum(3)
    return (weight_BL[:, None] * kl_BHL).sum() / (heads * weight_BL.sum().clamp_min(1))


def _log_relation(x_BLD: Tensor, y_BLD: Tensor, mask_BL: Tensor, heads: int) -> Tensor:
    if x_BLD.shape[2] % heads:
        raise ValueError(f"{heads} relation heads do not divide a width of {x_BLD.shape[2]}")
    parts = [real_tokens(feat, mask_BL)[1].unflatten(2, (heads, -1)).transpose(1, 2) for feat in (x_BLD, y_BLD)]
    with torch.autocast(x_BLD.device.type, enabled=False):  # it would multiply in half precision
        score_BHLL = parts[0] @ parts[1].mT / math.sqrt(parts[0].shape[3])
    # Half of the lowest number, not -inf: differences of the two sides stay finite, even where no token is real.
    lowest = torch.finfo(score_BHLL.dtype).min / 2
    return F.log_softmax(score_BHLL.masked_fill(~mask_BL[:, None, None], lowest), dim=3)


class MiniLM(Method):
    """How the tokens of one layer relate to one another, whatever the widths and heads."""

    api = 1
    paper = (
        "Wang et al., MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained "
        "Transformers, Findings of ACL 2021"
    )
    year = 2021
    url = "https://arxiv.org/abs/2012.15828"
    equation = (
        "cross-entropy + weight · mean over heads and tokens KL(R_teacher || R_student), R = softmax(x x^T / sqrt(d)) "
        "of x: hidden states, or the mean over x: queries, keys, values (version 2)"
    )
    knowledge = "relation"
    teachers = (1, None)

    @dataclass
    class Config:
        weight: float = option(1.0, "weight of the relations", min=0.0)
        heads: Optional[int] = option(
            None,
            "relation heads; default: the paper's 48, or the most below that divide both widths and leave 8 channels",
            min=1,
        )
        qkv: bool = option(
            False, "relate queries, keys and values, as the papers do, instead of hidden states", late=True
        )
        depth: Optional[float] = option(
            None,
            "relative depth of the layer, on both sides; default: with qkv 1, the last, else 0.87, the last of up to 4 "
            "layers, and what the last attention of 6 or 12 layers is computed from",
            min=0.0,
            max=1.0,
        )
        teacher_depth: Optional[float] = option(None, "the teacher's, where it is another", min=0.0, max=1.0, late=True)
        student_layer: Optional[str] = option(None, "dotted name of the student's layer, instead of the depth")
        teacher_layer: Optional[str] = option(None, "dotted name of the teacher's layer, instead of the depth")
        student_qkv: Optional[list[str]] = option(
            None,
            "dotted names of the modules that give the student's queries, keys and values, or of one that gives all "
            "three in a row, instead of those at the depth",
        )
        teacher_qkv: Optional[list[str]] = option(None, "those of the teacher; both sides or neither")
        version: int = option(
            2, "with queries, keys and values; 2: Q-Q, K-K and V-V, a third each; 1: Q-K and V-V", min=1, max=2
        )

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        if bool(cfg.student_qkv) != bool(cfg.teacher_qkv):
            raise InputError("minilm.student_qkv and minilm.teacher_qkv go together: give both, or neither.")
        depth = cfg.depth if cfg.depth is not None else LAST if cfg.qkv else BEFORE_LAST
        depths = depth, depth if cfg.teacher_depth is None else cfg.teacher_depth
        sides: list[list[Layer]] = []
        for side, where in zip(("student", "teacher"), depths, strict=True):
            named: list[str] | None = getattr(cfg, f"{side}_qkv")
            if named and len(named) not in (1, 3):
                raise InputError(f"minilm.{side}_qkv needs 3 names, or one of all three, not {len(named)}: {named}.")
            if named:
                sides.append(list(named))
            elif cfg.qkv:
                sides.append([attention_tap(kind, where) for kind in ("queries", "keys", "values")])
            else:
                sides.append([getattr(cfg, f"{side}_layer") or float(where)])
        return Taps(student={"vectors": sides[0]}, teacher={"vectors": sides[1]})

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        student = setup.student["vectors"]
        self.heads = [_heads(cfg, student, shapes["vectors"]) for shapes in setup.teachers]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        losses = [
            self._relations(batch.student.taps["vectors"], out.taps["vectors"], token_weights(batch), heads)
            for heads, out in zip(self.heads, batch.teachers, strict=True)
        ]
        return {"relations": self.cfg.weight * sum(losses[1:], losses[0])}

    def _relations(self, student: list[Tensor], teacher: list[Tensor], mask: Tensor | None, heads: int) -> Tensor:
        if not (self.cfg.qkv or self.cfg.student_qkv):
            ours, theirs, mask = side_by_side(student[0], teacher[0], mask)
            return relation_loss(ours, theirs, mask, heads)
        aligned = [side_by_side(*each, mask) for each in zip(_thirds(student), _thirds(teacher), strict=True)]
        if self.cfg.version == 2:
            losses = [relation_loss(*each, heads) for each in aligned]
            return sum(losses[1:], losses[0]) / len(losses)
        (s_q, t_q, real), (s_k, t_k, _), values = aligned
        attention = relation_loss(s_q, t_q, real, heads, student_keys=s_k, teacher_keys=t_k)
        return attention + relation_loss(*values, heads)


def _thirds(vectors: list[Tensor]) -> list[Tensor]:
    """Return queries, keys and values: as they came, or cut from one feature, along a map's or the tokens' channels."""
    if len(vectors) == 3:
        return vectors
    return list(vectors[0].chunk(3, dim=1 if vectors[0].ndim == 4 else -1))


def _heads(cfg: Any, student: list[Shape], teacher: list[Shape]) -> int:
    """Return the relation heads of a student's and a teacher's vectors.

    Raises:
        InputError: the heads asked for do not divide both widths, or there is one token only.
    """
    if max(len(student[0]), len(teacher[0])) > 2 and math.prod(common_size(student[0], teacher[0])) < 2:
        raise InputError(
            f"minilm relates tokens or positions, but student {tuple(student[0])} and teacher {tuple(teacher[0])} "
            "share one only: choose a layer with a larger map (minilm.depth) or a larger data.image_size."
        )
    widths = [width(shapes[0]) // (3 if cfg.student_qkv and len(shapes) == 1 else 1) for shapes in (student, teacher)]
    if cfg.heads:
        if any(each % cfg.heads for each in widths):
            raise InputError(f"minilm.heads={cfg.heads} does not divide the widths {widths[0]} and {widths[1]}.")
        return int(cfg.heads)
    most = min(PAPER_HEADS, max(min(widths) // PAPER_LEAST, 1))
    return next(count for count in range(most, 0, -1) if not any(each % count for each in widths))
