"""KD against a literal float64 reading of Hinton et al. (2015), section 2."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kdtool import Batch, Out, Setup
from kdtool.errors import InputError
from kdtool.losses import ensemble_logits, softened_kl
from kdtool_methods.kd import KD


def _softmax(row: Tensor, temperature: float) -> list[Tensor]:
    powers = [torch.exp(z / temperature) for z in row]
    return [power / sum(powers) for power in powers]


def _literal(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for student_row, teacher_row in zip(student, teacher, strict=True):
        for q, p in zip(_softmax(student_row, temperature), _softmax(teacher_row, temperature), strict=True):
            total = total + p * (torch.log(p) - torch.log(q))
    return temperature**2 * total / len(student)


def _batch(student: Tensor, *teachers: Tensor) -> Batch:
    labels = torch.zeros(len(student), dtype=torch.int64)
    return Batch(labels, labels, Out(student), [Out(t) for t in teachers], lambda logits: logits.mean())


def _setup(teachers: int) -> Setup:
    return Setup(student={}, teachers=[{}] * teachers, num_classes=4, num_samples=6, batch_size=6)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
@pytest.mark.parametrize("batch", [2, 6])
def test_value_and_gradient_follow_the_paper(temperature: float, batch: int) -> None:
    torch.manual_seed(0)
    student = (3 * torch.randn(batch, 4, dtype=torch.float64)).requires_grad_()
    teacher = 3 * torch.randn(batch, 4, dtype=torch.float64)
    ours, paper = softened_kl(student, teacher, temperature), _literal(student, teacher, temperature)
    assert ours.dtype == torch.float64
    torch.testing.assert_close(ours, paper, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(ours, student)[0], torch.autograd.grad(paper, student)[0], rtol=1e-9, atol=1e-12
    )


def test_equal_logits_cost_nothing_and_huge_ones_stay_finite() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [0.0, 1e4, -1e4]], requires_grad=True)
    assert softened_kl(logits, logits.detach(), 4.0) == 0
    loss = softened_kl(logits, logits.detach().flip(0), 4.0)
    assert torch.isfinite(loss)
    loss.backward()
    assert torch.isfinite(logits.grad).all()


def test_half_precision_is_computed_in_fp32() -> None:
    torch.manual_seed(0)
    student = torch.randn(64, 100).bfloat16()
    near = (student.float() + 1e-3 * torch.randn(64, 100)).bfloat16()
    loss = softened_kl(student, near, 4.0)
    assert loss.dtype == torch.float32
    assert loss >= 0


@pytest.mark.parametrize("weights", [None, [1.0, 3.0], [0.0, 2.0]])
def test_several_teachers_are_averaged(weights: list[float] | None) -> None:
    torch.manual_seed(0)
    one, two = torch.randn(2, 5, 4, dtype=torch.float64)
    shares = [w / sum(weights) for w in weights] if weights else [0.5, 0.5]
    temperature = 3.0
    mean = ensemble_logits([one, two], weights, temperature=temperature)
    expected = shares[0] * torch.softmax(one / temperature, 1) + shares[1] * torch.softmax(two / temperature, 1)
    torch.testing.assert_close(torch.softmax(mean / temperature, 1), expected, rtol=1e-12, atol=1e-14)
    as_logits = ensemble_logits([one, two], weights, temperature=temperature, of="logits")
    torch.testing.assert_close(as_logits, shares[0] * one + shares[1] * two, rtol=1e-12, atol=1e-14)


def test_the_hard_labels_get_what_the_soft_term_leaves() -> None:
    method = KD(KD.Config(temperature=2.0, alpha=0.3), _setup(1))
    (stage,) = method.stages()
    assert math.isclose(stage.task_weight, 0.7)
    student, teacher = torch.randn(2, 6, 4, dtype=torch.float64)
    terms = stage.loss(_batch(student, teacher))
    torch.testing.assert_close(terms["kl"], 0.3 * _literal(student, teacher, 2.0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weights", [[1.0], [0.0, 0.0]])
def test_weights_that_do_not_fit_the_teachers_are_refused(weights: list[float]) -> None:
    with pytest.raises(InputError, match=r"kd\.teacher_weights"):
        KD(KD.Config(teacher_weights=weights), _setup(2))
