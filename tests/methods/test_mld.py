"""Multi-label distillation against Yang et al. (2023), class by class."""

from __future__ import annotations

import math

import pytest
import torch

from kdtool_methods.mld import MLD, binary_kl
from tests.methods.pairs import assert_agrees, batch_of, gradients, random, setup_of


def literal(student, teacher):
    total = 0.0
    for own, other in zip(student, teacher, strict=True):
        for s, t in zip(own, other, strict=True):
            q, p = torch.sigmoid(s), torch.sigmoid(t)
            total = total + p * torch.log(p / q) + (1 - p) * torch.log((1 - p) / (1 - q))
    return total / len(student)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_it_is_the_sum_of_binary_divergences(size):
    assert_agrees(binary_kl, literal, random(size, 3), random(size, 3, seed=1))


def test_limits():
    logits = random(3, 4)
    same = binary_kl(logits, logits.detach())
    assert same.item() == pytest.approx(0, abs=1e-6)
    assert torch.autograd.grad(same, logits)[0].abs().max() < 1e-6
    # Far apart, the divergence is the distance of the logits, and its gradient ends at 1.
    far = torch.full((1, 2), 100.0, requires_grad=True)
    loss = binary_kl(far, -far.detach())
    assert loss.item() == pytest.approx(2 * 100.0)
    torch.testing.assert_close(torch.autograd.grad(loss, far)[0], torch.ones(1, 2))
    with pytest.raises(ValueError, match="shapes differ"):
        binary_kl(random(2, 3), random(2, 4))


def test_one_class_is_two_of_a_softmax():
    student, teacher = random(5, 1), random(5, 1, seed=1)
    two = [torch.cat([each, torch.zeros_like(each)], 1) for each in (student, teacher)]
    kl = torch.nn.functional.kl_div(two[0].log_softmax(1), two[1].softmax(1), reduction="batchmean")
    assert binary_kl(student, teacher).item() == pytest.approx(kl.item(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_computes_in_fp32(dtype):
    student, teacher = (random(2, 3, seed=seed).to(dtype) for seed in (0, 1))
    loss = binary_kl(student, teacher)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(binary_kl(student.double(), teacher.double()).item(), rel=1e-5)


def test_terms_weights_and_gradients():
    setup = setup_of([], [[]])
    method, batch = MLD(MLD.Config(weight=3.0, hard_weight=0.5), setup), batch_of(setup)
    (stage,) = method.stages()
    assert stage.task_weight == 0.5
    terms = stage.loss(batch)
    expected = 3 * literal(batch.student.logits, batch.teachers[0].logits)
    torch.testing.assert_close(terms["binary"], expected)
    assert gradients(method, batch, method.loss) == {"logits"}
    assert math.isfinite(float(terms["binary"].detach()))
