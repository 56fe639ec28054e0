"""NKD against a literal float64 reading of Yang et al. (2023), section 3."""

from __future__ import annotations

import pytest
import torch

from kdtool_methods.nkd import NKD, normalized_loss, normalized_parts
from tests.methods.pairs import assert_agrees, batch_of, gradients, random, setup_of

GAMMA, T = 1.7, 2.5


def softmax(row, temperature):
    powers = [(z / temperature).exp() for z in row]
    return [power / sum(powers) for power in powers]


def literal(labels):
    def loss(student, teacher):
        values = []
        for s, t, label in zip(student, teacher, labels.tolist(), strict=True):
            if label < 0:
                continue
            value = -softmax(t, 1.0)[label] * softmax(s, 1.0)[label].log()
            n_s, n_t = (softmax([z for k, z in enumerate(row) if k != label], T) for row in (s, t))
            values.append(value - GAMMA * T**2 * sum(a * b.log() for a, b in zip(n_t, n_s, strict=True)))
        return sum(values) / len(values)

    return loss


@pytest.mark.parametrize("labels", [[0, 3, 2, 2], [1], [4, 0], [-1, 4, 0, -1]])
def test_it_is_the_paper_s_equation(labels):
    labels = torch.tensor(labels)
    student, teacher = random(len(labels), 5), random(len(labels), 5, seed=1)
    assert_agrees(lambda s, t: normalized_loss(s, t, labels, GAMMA, T), literal(labels), student, teacher)


def test_the_other_classes_part_is_least_where_they_agree_whatever_the_target_gets():
    teacher = random(3, 5).detach()
    student = teacher.clone()
    labels = torch.tensor([0, 1, 4])
    student[torch.arange(3), labels] += 3.0  # normalised, the others still agree
    student.requires_grad_()
    _, others = normalized_parts(student, teacher, labels, T)
    assert torch.autograd.grad(others, student)[0].abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("classes", [2, 10])
def test_huge_logits_stay_finite(dtype, classes):
    student = torch.full((2, classes), -1e4)
    student[0, 0], student[1, 1] = 1e4, 1e4
    teacher = student.flip(1).to(dtype)
    student = student.to(dtype).requires_grad_()
    loss = normalized_loss(student, teacher, torch.tensor([0, 1]), 1.5, 1.0)
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert torch.autograd.grad(loss, student)[0].isfinite().all()


def test_two_classes_leave_only_the_target_part():
    _, others = normalized_parts(random(2, 2), random(2, 2, seed=1), torch.tensor([0, 1]), T)
    assert others.item() == 0
    with pytest.raises(ValueError, match="two classes"):
        normalized_loss(random(2, 1), random(2, 1), torch.tensor([0, 0]), 1.0, 1.0)


def test_a_batch_without_labels_costs_nothing():
    student = random(3, 4)
    loss = normalized_loss(student, random(3, 4, seed=1), torch.full((3,), -1), 1.0, 1.0)
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, student)[0].any()


def test_the_method_weighs_its_parts_and_averages_the_teachers_labels():
    setup = setup_of([], [[], []])
    batch = batch_of(setup, labels=torch.tensor([1, -1, 0, 4]))
    method = NKD(NKD.Config(gamma=GAMMA, temperature=T), setup)
    terms = method.loss(batch)
    assert list(terms) == ["target", "others"]
    want = sum(literal(batch.labels)(batch.student.logits, out.logits) for out in batch.teachers) / 2
    torch.testing.assert_close(sum(terms.values()), want)
    assert gradients(method, batch, method.loss) == {"logits"}
    assert method.stages()[0].task_weight == 1
