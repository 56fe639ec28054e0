"""Tf-KD_reg against a literal float64 reading of Yuan et al. (2020), section 5, and of their code."""

from __future__ import annotations

import math

import pytest
import torch

from kdtool_methods.tfkd import TfKD, virtual_teacher_loss
from tests.methods.pairs import assert_agrees, batch_of, gradients, random, setup_of

A, T = 0.9, 3.0


def softmax(row):
    powers = [z.exp() for z in row]
    return [power / sum(powers) for power in powers]


def literal(labels, form):
    def loss(student):
        values = []
        for s, label in zip(student, labels.tolist(), strict=True):
            if label < 0:
                continue
            table = [A if k == label else (1 - A) / (len(s) - 1) for k in range(len(s))]
            if form == "paper":
                powers = [p ** (1 / T) for p in table]
                q, scale = softmax([z / T for z in s]), T**2
            else:
                powers = [math.exp(p / T) for p in table]
                q, scale = softmax(s), 1
            p = [power / sum(powers) for power in powers]
            values.append(scale * sum(a * (math.log(a) - b.log()) for a, b in zip(p, q, strict=True)))
        return sum(values) / len(values)

    return loss


@pytest.mark.parametrize("form", ["paper", "code"])
@pytest.mark.parametrize("labels", [[0, 3, 2, 2], [1], [-1, 4, 0, -1]])
def test_it_is_the_equation(labels, form):
    labels = torch.tensor(labels)
    fast = lambda s: virtual_teacher_loss(s, labels, A, T, form)  # noqa: E731
    assert_agrees(fast, literal(labels, form), random(len(labels), 5))


@pytest.mark.parametrize("form", ["paper", "code"])
def test_rows_of_one_class_are_labels_and_rows_of_zeros_are_none(form):
    labels, student = torch.tensor([1, -1, 4]), random(3, 5)
    rows = torch.nn.functional.one_hot(labels.clamp_min(0), 5).double()
    rows[1] = 0
    got = virtual_teacher_loss(student, rows, A, T, form)
    torch.testing.assert_close(got, virtual_teacher_loss(student, labels, A, T, form))


def test_a_student_that_is_the_table_costs_nothing():
    student = torch.tensor([[0.9, 0.05, 0.05]]).double().log()
    assert virtual_teacher_loss(student, torch.tensor([0]), A, T).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", ["paper", "code"])
def test_huge_logits_stay_finite(dtype, form):
    student = torch.tensor([[3e4, -3e4, 0.0], [0.0, 3e4, -3e4]]).to(dtype).requires_grad_()
    loss = virtual_teacher_loss(student, torch.tensor([0, 0]), 0.99, 20.0, form)
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert torch.autograd.grad(loss, student)[0].isfinite().all()


def test_a_batch_without_labels_costs_nothing_and_nonsense_is_refused():
    student = random(3, 4)
    loss = virtual_teacher_loss(student, torch.full((3,), -1), A, T)
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, student)[0].any()
    with pytest.raises(ValueError, match="two classes"):
        virtual_teacher_loss(random(2, 1), torch.tensor([0, 0]), A, T)
    with pytest.raises(ValueError, match="form"):
        virtual_teacher_loss(student, torch.tensor([0, 0, 0]), A, T, "both")


def test_the_hard_labels_get_the_rest():
    setup = setup_of([], [])
    method, batch = TfKD(TfKD.Config(temperature=T, correct=A, alpha=0.3), setup), batch_of(setup)
    (stage,) = method.stages()
    assert stage.task_weight == pytest.approx(0.7)
    terms = stage.loss(batch)
    assert list(terms) == ["kl"]
    torch.testing.assert_close(terms["kl"], 0.3 * literal(batch.labels, "paper")(batch.student.logits))
    assert gradients(method, batch, stage.loss) == {"logits"}
