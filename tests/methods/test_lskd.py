"""LSKD against a literal float64 reading of Sun et al. (2024), Algorithm 1 and section 3."""

from __future__ import annotations

import pytest
import torch

from kdtool.losses import softened_kl
from kdtool_methods.lskd import LSKD, standardise, standardised_kl
from tests.methods.pairs import assert_agrees, batch_of, gradients, random, setup_of

T = 2.0


def probabilities(row):
    mean = sum(row) / len(row)
    deviation = (sum((z - mean) ** 2 for z in row) / (len(row) - 1)) ** 0.5
    powers = [((z - mean) / (deviation + 1e-7) / T).exp() for z in row]
    return [power / sum(powers) for power in powers]


def literal(student, teacher):
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        total = total + sum(p * (p / q).log() for p, q in zip(probabilities(t), probabilities(s), strict=True))
    return T**2 * total / len(student)


@pytest.mark.parametrize(("size", "classes"), [(1, 2), (2, 3), (4, 7)])
def test_it_is_the_paper_s_equation(size, classes):
    student, teacher = random(size, classes), random(size, classes, seed=1)
    assert_agrees(lambda s, t: standardised_kl(s, t, T), literal, student, teacher)


def test_range_and_offset_do_not_count():
    logits = random(3, 5)
    assert standardised_kl(40 * logits + 7, logits, T).item() == pytest.approx(0, abs=1e-12)
    assert standardised_kl(logits, logits, T).item() == 0
    rows = standardise(40 * logits + 7)
    torch.testing.assert_close(rows.std(1), torch.ones(3, dtype=torch.float64), rtol=1e-7, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_huge_logits_stay_exact(dtype):
    student = torch.tensor([[6e4, -6e4, 0.0], [0.0, 6e4, -6e4]]).to(dtype).requires_grad_()
    loss = standardised_kl(student, student.detach().flip(0), T)
    want = literal(student.detach().double(), student.detach().double().flip(0))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(want.item(), rel=1e-5)
    assert torch.autograd.grad(loss, student)[0].isfinite().all()


def test_squares_that_overflow_do_not_matter():
    student = torch.tensor([[1e30, -1e30, 0.0]], requires_grad=True)
    loss = standardised_kl(student, torch.tensor([[1.0, 2.0, 3.0]]), T)
    assert loss.isfinite()
    assert torch.autograd.grad(loss, student)[0].isfinite().all()


def test_a_constant_row_is_a_uniform_distribution():
    student = torch.full((2, 4), 3.0, dtype=torch.float64, requires_grad=True)
    teacher = random(2, 4)
    loss = standardised_kl(student, teacher, T)
    want = softened_kl(torch.zeros(2, 4, dtype=torch.float64), standardise(teacher), T)
    torch.testing.assert_close(loss, want)
    assert torch.autograd.grad(loss, student)[0].isfinite().all()


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="two classes"):
        standardised_kl(random(2, 1), random(2, 1), T)


def test_the_weights_are_those_of_the_paper():
    setup = setup_of([], [[]])
    method, batch = LSKD(LSKD.Config(), setup), batch_of(setup, labels=torch.full((4,), -1))
    (stage,) = method.stages()
    assert stage.task_weight == 0.1
    terms = stage.loss(batch)
    assert list(terms) == ["kl"]
    torch.testing.assert_close(terms["kl"], 9 * literal(batch.student.logits, batch.teachers[0].logits))
    assert gradients(method, batch, stage.loss) == {"logits"}


def test_each_teacher_is_standardised_on_its_own():
    setup = setup_of([], [[], []])
    method, batch = LSKD(LSKD.Config(weight=1.0), setup), batch_of(setup)
    first, second = batch.teachers
    value = method.loss(batch)["kl"]
    second.logits = 50 * second.logits - 3
    torch.testing.assert_close(method.loss(batch)["kl"], value, rtol=1e-6, atol=0)
    second.logits = first.logits
    torch.testing.assert_close(method.loss(batch)["kl"], standardised_kl(batch.student.logits, first.logits, T))
