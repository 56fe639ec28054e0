"""TTM and WTTM against a literal float64 reading of Zheng & Yang (2024), sections 3 and 4."""

from __future__ import annotations

import pytest
import torch

from kdtool.losses import softened_kl
from kdtool_methods.ttm import TTM, power_sum, transformed_kl, weighted_transformed_kl
from kdtool_methods.wttm import WTTM
from tests.methods.pairs import assert_agrees, batch_of, gradients, random, setup_of

T = 2.5


def softmax(row):
    powers = [z.exp() for z in row]
    return [power / sum(powers) for power in powers]


def literal(weighted, temperature=T):
    def loss(student, teacher):
        total = 0.0
        for s, t in zip(student, teacher, strict=True):
            powers = [p ** (1 / temperature) for p in softmax(t)]
            norm = sum(powers)
            kl = sum(a / norm * (a / norm / b).log() for a, b in zip(powers, softmax(s), strict=True))
            total = total + (norm * kl if weighted else kl)
        return total / len(student)

    return loss


@pytest.mark.parametrize("size", [1, 2, 4])
def test_both_are_the_paper_s_equations(size):
    student, teacher = random(size, 5), random(size, 5, seed=1)
    assert_agrees(lambda s, t: transformed_kl(s, t, T), literal(False), student, teacher)
    assert_agrees(lambda s, t: weighted_transformed_kl(s, t, T), literal(True), student, teacher)


def test_at_temperature_one_both_are_kd():
    student, teacher = random(3, 4), random(3, 4, seed=1)
    want = softened_kl(student, teacher, 1.0)
    torch.testing.assert_close(transformed_kl(student, teacher, 1.0), want)
    torch.testing.assert_close(weighted_transformed_kl(student, teacher, 1.0), want)
    assert transformed_kl(teacher / T, teacher, T).item() == pytest.approx(0, abs=1e-12)


def test_the_weight_lies_between_a_sure_and_a_uniform_teacher():
    teacher = torch.tensor([[1e4, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    torch.testing.assert_close(power_sum(teacher, 2.0), torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", [transformed_kl, weighted_transformed_kl])
def test_huge_logits_stay_finite(dtype, loss):
    student = torch.tensor([[3e4, -3e4, 0.0], [0.0, 3e4, -3e4]]).to(dtype).requires_grad_()
    value = loss(student, student.detach().flip(0), 4.0)
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert torch.autograd.grad(value, student)[0].isfinite().all()


@pytest.mark.parametrize(("cls", "weighted"), [(TTM, False), (WTTM, True)])
def test_the_methods_soften_the_mean_of_the_teachers(cls, weighted):
    setup = setup_of([], [[], []])
    method = cls(cls.Config(temperature=T, weight=3.0), setup)
    batch = batch_of(setup, labels=torch.full((4,), -1))
    terms = method.loss(batch)
    assert list(terms) == ["kl"]
    mean = sum(out.logits.softmax(1) for out in batch.teachers) / 2
    torch.testing.assert_close(terms["kl"], 3.0 * literal(weighted)(batch.student.logits, mean.log()))
    assert gradients(method, batch, method.loss) == {"logits"}
    assert method.stages()[0].task_weight == 1
