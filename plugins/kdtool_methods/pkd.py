"""Patient Knowledge Distillation for BERT Model Compression. Sun et al., EMNLP 2019. https://arxiv.org/abs/1908.09355

Eq. 7 sums the squared distances over layers, Eq. 3 has no factor T^2. The authors' code has the factor, and takes the
mean of the squared differences over layers and all 768 entries; it is with these that beta was searched in 10, 100, 500
and 1000 (alpha in 0.2, 0.5, 0.7; T in 5, 10, 20). The code's own example is alpha = 0.7, T = 10, beta = 500, which are
the defaults here. Its mean over entries is read as a division by 768: distances of normalised states do not grow with
their width, so a narrower network gets no larger weight. Where widths differ, which the paper leaves out, a learned
linear layer takes the student's states to the teacher's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from torch import Tensor

from kdtool import Batch, Method, Setup, Stage, Taps, option
from kdtool.errors import InputError
from kdtool.layers import as_vector, paired_stages, unit_rows
from kdtool.losses import at_least_fp32, ensemble_logits, softened_kl
from kdtool.method import Layer
from kdtool_methods._tokens import Projections, block_depth, pair_layers

PAPER_WIDTH = 768  # of BERT-base's states


def patient_loss(s_BD: Tensor, t_BD: Tensor) -> Tensor:
    """Return the squared distance of two sets of L2-normalised rows, mean over B; in [0, 4]. A row of zeros stays so.

    Args:
        s_BD, t_BD: states of equal shape.

    Raises:
        ValueError: unequal shapes.
    """
    if s_BD.shape != t_BD.shape:
        raise ValueError(f"shapes differ: student {tuple(s_BD.shape)}, teacher {tuple(t_BD.shape)}")
    apart_BD = unit_rows(at_least_fp32(s_BD)) - unit_rows(at_least_fp32(t_BD))
    return apart_BD.square().sum(1).mean()


def state_of(feat: Tensor) -> Tensor:
    """Return the state (B, D) that stands for a sample: a sequence's first token, or the mean of a map."""
    return feat[:, 0] if feat.ndim == 3 else as_vector(feat)


class PKD(Method):
    """Soft labels, and first-token states of the layers below the last that point where the teacher's do."""

    api = 1
    paper = "Sun et al., Patient Knowledge Distillation for BERT Model Compression, EMNLP 2019"
    year = 2019
    url = "https://arxiv.org/abs/1908.09355"
    equation = (
        "(1 - alpha) · cross-entropy + alpha · T^2 · KL(softmax(teacher / T) || softmax(student / T)) + "
        "beta / 768 · mean over layers ||h_student / |h_student| - h_teacher / |h_teacher| ||^2, h: first token's state"
    )
    knowledge = "feature"
    teachers = (1, None)

    @dataclass
    class Config:
        alpha: float = option(0.7, "weight of the soft labels; the hard labels get 1 - alpha", min=0.0, max=1.0)
        temperature: float = option(10.0, "T, softens both distributions", min=0.01)
        beta: float = option(500.0, "weight of the patient term", min=0.0)
        form: str = option(
            "code",
            "code: beta / 768 times the mean over layers, as in the authors' code on BERT-base; paper: beta times the "
            "sum over layers, as in Eq. 7",
            choices=("code", "paper"),
        )
        strategy: str = option(
            "skip",
            "which of the teacher's layers the student's, all but its last, learn from; skip: every N/M-th; last: "
            "those right before the last",
            choices=("skip", "last"),
        )
        student_blocks: Optional[int] = option(
            None,
            "M, the student's number of transformer layers, of which M - 1 learn; default: one learns, in the middle, "
            "which is all of them where M = 2",
            min=2,
        )
        teacher_blocks: Optional[int] = option(
            None,
            "N, the teacher's number of layers, for exact pairs; default: right for 2, 4, 6, 12 and 24 where M = 2",
            min=2,
        )
        student_layers: Optional[list[str]] = option(None, "dotted names of the student's layers, instead")
        teacher_layers: Optional[list[str]] = option(None, "dotted names of the teacher's layers, instead")

    @classmethod
    def taps(cls, cfg: Any) -> Taps:
        ours, theirs = patient_layers(cfg.strategy, cfg.student_blocks, cfg.teacher_blocks)
        return pair_layers("pkd", ours, theirs, cfg.student_layers, cfg.teacher_layers)

    def __init__(self, cfg: Any, setup: Setup):
        super().__init__(cfg, setup)
        self.project = Projections(
            pair for shapes in setup.teachers for pair in zip(setup.student["stages"], shapes["stages"], strict=True)
        )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        cfg = self.cfg
        teacher = ensemble_logits([out.logits for out in batch.teachers], temperature=cfg.temperature)
        losses = []
        for student_feat, teacher_feat in paired_stages(batch):
            theirs_BD = state_of(teacher_feat)
            losses.append(patient_loss(self.project(state_of(student_feat), theirs_BD.shape[1]), theirs_BD))
        layers = len(losses) // len(batch.teachers)
        share = 1 / (PAPER_WIDTH * layers) if cfg.form == "code" else 1.0
        return {
            "kl": cfg.alpha * softened_kl(batch.student.logits, teacher, cfg.temperature),
            "patient": cfg.beta * share * sum(losses[1:], losses[0]),
        }

    def stages(self) -> list[Stage]:
        return [Stage("distill", self.loss, task_weight=1 - self.cfg.alpha)]


def patient_layers(strategy: str, student: int | None, teacher: int | None) -> tuple[list[Layer], list[Layer]]:
    """Return the student's layers that learn and those that they learn from.

    Args:
        strategy: "skip" or "last".
        student: M, at least 2; None: one layer learns, half-way.
        teacher: N; None: not known.

    Raises:
        InputError: the student has more layers than the teacher.
    """
    if student is not None and teacher is not None and student > teacher:
        raise InputError(f"pkd.student_blocks={student} is more than pkd.teacher_blocks={teacher}.")
    count = student or 2
    shares = [number / count for number in range(1, count)]
    ours: list[Layer] = [block_depth(share, student) for share in shares]
    if strategy == "last":
        return ours, [number - count - 1 for number in range(1, count)]
    return ours, [block_depth(share, teacher) for share in shares]
