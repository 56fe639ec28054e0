from __future__ import annotations

import math

import pytest
import torch

from kdtool.losses import ensemble_logits
from kdtool_methods.dist import DIST, relation_loss, relation_parts
from tests.methods.pairs import assert_agrees, batch_of, gradients, random, setup_of

T, BETA, GAMMA = 2.0, 1.5, 0.5


def softmax(logits):
    powers = [(value / T).exp() for value in logits]
    return [power / sum(powers) for power in powers]


def pearson(x, y, eps=0.0):
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    x, y = [v - mean_x for v in x], [v - mean_y for v in y]
    norms = sum(v**2 for v in x) ** 0.5 * sum(v**2 for v in y) ** 0.5
    return sum(a * b for a, b in zip(x, y, strict=True)) / (norms + eps)


def literal(student, teacher, eps=0.0):
    s, t = [softmax(row) for row in student], [softmax(row) for row in teacher]
    rows = [1 - pearson(a, b, eps) for a, b in zip(s, t, strict=True)]
    columns = [1 - pearson(a, b, eps) for a, b in zip(zip(*s, strict=True), zip(*t, strict=True), strict=True)]
    return T**2 * (BETA * sum(rows) / len(rows) + GAMMA * sum(columns) / len(columns))


@pytest.mark.parametrize("shape", [(4, 6), (7, 3), (3, 10)])
@pytest.mark.parametrize("eps", [0.0, 1e-3])
def test_it_is_the_paper_s_equation(shape, eps):
    assert_agrees(
        lambda s, t: relation_loss(s, t, T, BETA, GAMMA, eps),
        lambda s, t: literal(s, t, eps),
        random(*shape),
        random(*shape, seed=1),
    )


def test_equal_logits_cost_nothing():
    logits = random(4, 5)
    loss = relation_loss(logits, logits, 4.0, 1.0, 1.0)
    assert abs(loss.item()) < 1e-13


def test_a_linear_map_of_the_probabilities_costs_nothing():
    """Pearson's correlation ignores scale and offset: what DIST relaxes in KD."""
    student = random(4, 5).softmax(1)
    teacher = 0.5 * student + 0.1
    inter, intra = relation_parts(student.log(), teacher.log(), 1.0)
    assert abs(inter.item()) < 1e-13
    assert abs(intra.item()) < 1e-13


def test_a_batch_of_two_has_columns_that_agree_or_oppose():
    student, teacher = random(2, 5), random(2, 5, seed=1)
    _, intra = relation_parts(student, teacher, 1.0)
    rise = (student[1].softmax(0) > student[0].softmax(0)) == (teacher[1].softmax(0) > teacher[0].softmax(0))
    share = 1 - 2 * rise.double().mean() + 1
    assert intra.item() == pytest.approx(share.item(), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("eps", [0.0, 1e-8])
def test_constant_rows_and_columns_correlate_with_nothing(dtype, eps):
    teacher = random(4, 5, seed=1).detach().to(dtype)
    for student in (torch.zeros(4, 5), torch.full((4, 5), 3.7), torch.zeros(1, 5)):
        student = student.to(dtype).requires_grad_()
        inter, intra = relation_parts(student, teacher[: len(student)], 1.0, eps)
        grad = torch.autograd.grad(inter + intra, student)[0]
        assert inter.item() == pytest.approx(1)
        assert intra.item() == pytest.approx(1)
        assert grad.abs().sum() == 0
    assert math.isfinite(relation_loss(teacher, torch.zeros_like(teacher), 1.0, 1.0, 1.0, eps).item())


@pytest.mark.parametrize("eps", [0.0, 1e-8])
def test_huge_logits_stay_finite(eps):
    student = (1e4 * random(6, 5).detach()).float().requires_grad_()
    loss = relation_loss(student, (1e4 * random(6, 5, seed=1)).float(), 1.0, 1.0, 1.0, eps)
    assert math.isfinite(loss.item())
    assert 0 <= loss <= 4
    assert torch.autograd.grad(loss, student)[0].isfinite().all()


def test_tiny_probabilities_count_as_much_as_large_ones():
    """Where fp32 probabilities vanish, their correlation over the batch is still exact."""
    student, teacher = random(6, 5).detach(), random(6, 5, seed=1).detach()
    student[:, 2] -= 200
    teacher[:, 2] -= 200
    got = relation_parts(student.float(), teacher.float(), 1.0)[1]
    want = relation_parts(student, teacher, 1.0)[1]
    assert got.item() == pytest.approx(want.item(), rel=1e-4)


def test_the_method_averages_teachers():
    setup = setup_of([], [[], []])
    method, batch = DIST(DIST.Config(temperature=T, beta=BETA, gamma=GAMMA), setup), batch_of(setup)
    terms = method.loss(batch)
    teacher = ensemble_logits([out.logits for out in batch.teachers], temperature=T)
    assert list(terms) == ["inter", "intra"]
    want = relation_loss(batch.student.logits, teacher, T, BETA, GAMMA)
    torch.testing.assert_close(terms["inter"] + terms["intra"], want)
    assert gradients(method, batch, method.loss) == {"logits"}
