"""TinyBERT: Distilling BERT for Natural Language Understanding. Jiao et al., Findings of EMNLP 2020.
https://arxiv.org/abs/1909.10351

Of its two phases this is the task's; the general one, on a language model's data, comes before. As in the authors'
code, the intermediate errors are learned first, 10 epochs, and then the logits, 3 epochs, both without hard labels.

The paper compares attention scores before the softmax. Networks give their attention as probabilities: these are
compared unless ``attention_form=scores``, which takes their logarithm, each row less its mean; that is the scores up to
a constant a row, to which the softmax is blind. Attention is off unless asked for: not every network has it.

The embedding layer's output has no name that all networks share, so its term needs both sides' names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtool import Batch, Method, Setup, Stage, Taps, option
from kdtool.errors import InputError
from kdtool.layers import paired_stages, token_weights
from kdtool.losses import at_least_fp32, ensemble_logits
from kdtool.method import Layer, TapSpec
from kdtool_methods._tokens import (
    Projections,
    attention_tap,
    block_depth,
    pair_layers,
    real_tokens,
    require_mask,
    side_by_side,
)

SHARE = 0.74  # of the epochs, for the intermediate layers: the 10 of 13, and one of two
FAINTEST = 1e-6  # probability whose logarithm is taken for any below: half precision and dropout give zeros


def hidden_loss(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the squared difference of two token sequences (B, L, D), mean over the batch's real tokens and D (Eq. 8).

    Args:
        student: projected to the teacher's width.
        teacher: the same shape.
        mask: (B, L) bool, True for real tokens, or what each weighs, 0 for padding; None: all are real.

    Raises:
        ValueError: unequal shapes, or a mask that does not fit.
    """
    _require_equal(student, teacher)
    weight_BL, student = real_tokens(student, mask)
    _, teacher = real_tokens(teacher, mask)
    squared_BL = (student - teacher).square().sum(2)
    return (weight_BL * squared_BL).sum() / (weight_BL.sum().clamp_min(1) * student.shape[2])


def attention_loss(s_BHLL: Tensor, t_BHLL: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean squared difference of two attention maps over all heads and pairs of real tokens (Eq. 7).

    That is the sum over the batch, over the batch's sum of heads · length^2, a length being a sample's real tokens.

    Args:
        s_BHLL, t_BHLL: scores or probabilities, rows being queries; padding may hold anything, such as -inf.
        mask: (B, L) bool, True for real tokens, or what each weighs, a pair their product; None: all are real.

    Raises:
        ValueError: unequal shapes, or a mask that does not fit.
    """
    _require_equal(s_BHLL, t_BHLL)
    pair_B1LL = _pairs(s_BHLL, mask)
    student, teacher = (torch.where(pair_B1LL > 0, at_least_fp32(each), 0.0) for each in (s_BHLL, t_BHLL))
    squared_BHLL = (student - teacher).square()
    return (pair_B1LL * squared_BHLL).sum() / (pair_B1LL.sum() * s_BHLL.shape[1]).clamp_min(1)


def scores_of(probability_BHLL: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return attention's scores before the softmax, up to a constant a row: logarithms, less each row's mean.

    Args:
        probability_BHLL: attention of each query (row) to the keys; what is below 1e-6 counts as 1e-6.
        mask: (B, L) bool, True for real tokens, over whose keys the mean goes; None: all are. Padding becomes zero.
    """
    pair_B1LL = _pairs(probability_BHLL, None if mask is None else mask > 0)
    log_BHLL = torch.where(pair_B1LL, at_least_fp32(probability_BHLL), 1.0).clamp_min(FAINTEST).log()
    mean_BHL1 = log_BHLL.sum(3, keepdim=True) / pair_B1LL.sum(3, keepdim=True).clamp_min(1)
    return torch.where(pair_B1LL, log_BHLL - mean_BHL1, 0.0)


def prediction_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the cross-entropy of softmax(student / T) against softmax(teacher / T), mean over the batch (Eq. 10).

    Args:
        student_logits, teacher_logits: (B, K).
        temperature: T > 0. There is no factor T^2.
    """
    log_student = F.log_softmax(at_least_fp32(student_logits) / temperature, dim=1)
    teacher = F.softmax(at_least_fp32(teacher_logits) / temperature, dim=1)
    return -(teacher * log_student).sum(1).mean()


def _pairs(attention_BHLL: Tensor, mask: Tensor | None) -> Tensor:
    """Return (B, 1, L, L): both tokens are real, or the product of what they weigh."""
    batch, _, length, _ = attention_BHLL.shape
    require_mask(mask, (batch, length))
    if mask is None:
        mask = torch.ones(batch, length, dtype=torch.bool, device=attention_BHLL.device)
    return (mask[:, :, None] * mask[:, None, :])[:, None]


def _require_equal(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise ValueError(f"shapes differ: student {tuple(student.shape)}, teacher {tuple(teacher.shape)}")


class TinyBERT(Method):
    """Two stages: hidden states and attention of evenly spread layers, then the soft labels."""

    api = 1
    paper = "Jiao et al., TinyBERT: Distilling BERT for Natural Language Understanding, Findings of EMNLP 2020"
    year = 2020
    url = "https://arxiv.org/abs/1909.10351"
    equation = (
        "stage intermediate: MSE(E_student W_e, E_teacher) + sum over layers MSE(H_student W_h, H_teacher) + "
        "MSE(A_student, A_teacher), embeddings E and attention A where asked for; "
        "stage prediction: -softmax(teacher / T) · log softmax(student / T)"
    )
    knowledge = "feature"
    teachers = (1, None)

    @dataclass
    class Config:
        student_blocks: Optional[int] = option(
            None,
            "M, the student's number of transformer layers, all of which learn; default: two learn, the middle and the "
            "last, which are all where M = 2",
            min=1,
        )
        teacher_blocks: Optional[int] = option(
            None,
            "N, the teacher's number of layers; the m-th of M learns from the m·N/M-th; default: right for 2, 4, 6, 12 "
            "and 24 where M = 2",
            min=1,
        )
        student_layers: Optional[list[str]] = option(None, "dotted names of the student's layers, instead")
        teacher_layers: Optional[list[str]] = option(None, "dotted names of the teacher's layers, instead")
        student_embeddings: Optional[str] = option(
            None, "dotted name of the student's embedding layer, such as bert.embeddings; default: not compared"
        )
        teacher_embeddings: Optional[str] = option(None, "dotted name of the teacher's embedding layer")
        attention: bool = option(False, "also compare attention maps; both networks need as many heads")
        attention_form: str = option(
            "tapped",
            "tapped: attention as the networks give it; scores: its logarithm less each row's mean, the scores before "
            "the softmax up to a constant a row",
            choices=("tapped", "scores"),
        )
        student_attention: Optional[list[str]] = option(
            None, "layers that give the student's attention (B, H, L, L); default: attention:DEPTH of its layers"
        )
        teacher_attention: Optional[list[str]] = option(None, "layers that give the teacher's attention")
        intermediate_epochs: Optional[int] = option(
            None, "epochs of stage intermediate, out of train.epochs; default: 74%, 10 of 13", min=1
        )
        temperature: float = option(1.0, "T of stage prediction", min=0.01)

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        shares = _shares(cfg.student_blocks)
        ours, theirs = ([block_depth(s, count) for s in shares] for count in (cfg.student_blocks, cfg.teacher_blocks))
        hidden = pair_layers("tinybert", ours, theirs, cfg.student_layers, cfg.teacher_layers)
        student, teacher = dict(hidden.student), dict(hidden.teacher)
        if bool(cfg.student_embeddings) != bool(cfg.teacher_embeddings):
            raise InputError("tinybert.student_embeddings and tinybert.teacher_embeddings go together: give both.")
        if cfg.student_embeddings:
            student["embeddings"], teacher["embeddings"] = cfg.student_embeddings, cfg.teacher_embeddings
        if cfg.attention:
            ours_of = _attention_layers("student", cfg.student_attention, hidden.student, ours)
            theirs_of = _attention_layers("teacher", cfg.teacher_attention, hidden.teacher, theirs)
            if len(ours_of) != len(theirs_of):
                raise InputError("tinybert.student_attention and tinybert.teacher_attention differ in number.")
            student["attention"], teacher["attention"] = ours_of, theirs_of
        return Taps(student=student, teacher=teacher)

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        student = setup.student
        # W_h: one matrix where all layers are of one width; W_e: another.
        self.hidden = Projections(
            (pair for shapes in setup.teachers for pair in zip(student["stages"], shapes["stages"], strict=True)),
            always=True,
        )
        if cfg.student_embeddings:
            pairs = [(student["embeddings"], shapes["embeddings"]) for shapes in setup.teachers]
            self.embeddings = Projections(pairs, always=True)
        if cfg.attention:
            for shapes in setup.teachers:
                _require_equal_heads(student["attention"], shapes["attention"])

    def intermediate(self, batch: Batch) -> dict[str, Tensor]:
        """Stage 1: the layers, summed over teachers."""
        student, mask = batch.student, token_weights(batch)
        terms: dict[str, Tensor] = {}
        if self.cfg.student_embeddings:
            pairs = [(student.taps["embeddings"], out.taps["embeddings"]) for out in batch.teachers]
            terms["embeddings"] = _total(_states_loss(self.embeddings, *pair, mask) for pair in pairs)
        terms["hidden"] = _total(_states_loss(self.hidden, *pair, mask) for pair in paired_stages(batch))
        if self.cfg.attention:
            form = scores_of if self.cfg.attention_form == "scores" else lambda attention, _: attention
            terms["attention"] = _total(
                attention_loss(form(ours, mask), form(theirs, mask), mask)
                for out in batch.teachers
                for ours, theirs in zip(student.taps["attention"], out.taps["attention"], strict=True)
            )
        return terms

    def prediction(self, batch: Batch) -> dict[str, Tensor]:
        """Stage 2: the soft labels."""
        temperature = self.cfg.temperature
        teacher = ensemble_logits([out.logits for out in batch.teachers], temperature=temperature)
        return {"soft": prediction_loss(batch.student.logits, teacher, temperature)}

    def stages(self) -> list[Stage]:
        epochs = self.cfg.intermediate_epochs or SHARE
        return [
            Stage("intermediate", self.intermediate, epochs=epochs, task_weight=0.0),
            Stage("prediction", self.prediction, trains=("student",), task_weight=0.0),
        ]


def _shares(blocks: int | None) -> list[float]:
    count = blocks or 2
    return [number / count for number in range(1, count + 1)]


def _attention_layers(side: str, named: list[str] | None, hidden: TapSpec, depths: list[float]) -> list[Layer]:
    """Return the layers that give one side's attention: named, or the attention at the depths of its hidden states.

    Raises:
        InputError: the hidden states' layers are named, so that no depth says where their attention is.
    """
    if named:
        return list(named)
    if list(hidden["stages"]) != depths:  # type: ignore[arg-type]
        raise InputError(
            f"tinybert.{side}_layers names layers, whose attention has names of its own: give "
            f"tinybert.{side}_attention too, or tinybert.attention=false."
        )
    return [attention_tap("attention", depth) for depth in depths]


def _require_equal_heads(student: list[Any], teacher: list[Any]) -> None:
    for ours, theirs in zip(student, teacher, strict=True):
        if len(ours) != 3 or len(theirs) != 3 or ours[0] != theirs[0]:
            raise InputError(
                f"tinybert compares attention head by head, (H, L, L), but the student's is {tuple(ours)} and the "
                f"teacher's {tuple(theirs)}: give the student as many heads, or set tinybert.attention=false."
            )


def _states_loss(project: Projections, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    s_BLD, t_BLD, mask = side_by_side(student, teacher, mask)
    return hidden_loss(project(s_BLD, t_BLD.shape[2]), t_BLD, mask)


def _total(losses: Any) -> Tensor:
    each = list(losses)
    total: Tensor = sum(each[1:], each[0])
    return total
