"""WSLD against a literal float64 reading of Zhou et al. (2021), section 4."""

from __future__ import annotations

import math

import pytest
import torch

from kdtool_methods.wsld import WSLD, soft_label_weight, weighted_soft_loss
from tests.methods.pairs import assert_agrees, batch_of, gradients, random, setup_of

T = 2.5


def softmax(row, temperature=1.0):
    powers = [(z / temperature).exp() for z in row]
    return [power / sum(powers) for power in powers]


def literal(labels):
    def loss(student, teacher):
        values = []
        for s, t, label in zip(student, teacher, labels.tolist(), strict=True):
            if label < 0:
                continue
            ce_s, ce_t = (-math.log(softmax(row.detach())[label].item()) for row in (s, t))
            soft = -sum(a * b.log() for a, b in zip(softmax(t, T), softmax(s, T), strict=True))
            values.append(T**2 * (1 - math.exp(-ce_s / (ce_t + 1e-7))) * soft)
        return sum(values) / len(values)

    return loss


@pytest.mark.parametrize("labels", [[0, 3, 2, 2], [1], [4, 0], [-1, 4, 0, -1]])
def test_it_is_the_paper_s_equation(labels):
    labels = torch.tensor(labels)
    student, teacher = random(len(labels), 5), random(len(labels), 5, seed=1)
    assert_agrees(lambda s, t: weighted_soft_loss(s, t, labels, T), literal(labels), student, teacher)


def test_the_weight_falls_where_the_student_is_ahead():
    teacher = torch.tensor([[1.0, 0.0]] * 3)
    student = torch.tensor([[9.0, 0.0], [1.0, 0.0], [-9.0, 0.0]])
    weight = soft_label_weight(student, teacher, torch.zeros(3, dtype=torch.int64))
    assert weight[0] < 1e-3
    assert weight[1].item() == pytest.approx(1 - math.exp(-1))
    assert weight[2] > 1 - 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_huge_logits_stay_finite(dtype):
    student = torch.tensor([[3e4, -3e4, 0.0], [0.0, 3e4, -3e4]]).to(dtype).requires_grad_()
    loss = weighted_soft_loss(student, student.detach().flip(0), torch.tensor([0, 0]), 1.0)
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert torch.autograd.grad(loss, student)[0].isfinite().all()


def test_two_sure_networks_do_not_divide_by_zero():
    sure = torch.tensor([[1e4, -1e4]], requires_grad=True)
    loss = weighted_soft_loss(sure, sure.detach(), torch.tensor([0]), 4.0)
    assert loss.item() == 0


def test_a_batch_without_labels_costs_nothing():
    student = random(3, 4)
    loss = weighted_soft_loss(student, random(3, 4, seed=1), torch.full((3,), -1), 1.0)
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, student)[0].any()


def test_the_method_gives_each_teacher_a_weight_of_its_own():
    setup = setup_of([], [[], []])
    batch = batch_of(setup, labels=torch.tensor([1, -1, 0, 4]))
    method = WSLD(WSLD.Config(temperature=T), setup)
    terms = method.loss(batch)
    assert list(terms) == ["soft"]
    want = sum(literal(batch.labels)(batch.student.logits, out.logits) for out in batch.teachers) / 2
    torch.testing.assert_close(terms["soft"], 2.25 * want)
    assert gradients(method, batch, method.loss) == {"logits"}
    assert method.stages()[0].task_weight == 1
