"""The squared error of logits against Ba & Caruana (2014) and Tang et al. (2019), entry by entry."""

from __future__ import annotations

import pytest
import torch

from kdtool_methods.logits import Logits, logit_mse
from tests.methods.pairs import assert_agrees, batch_of, gradients, random, setup_of


def literal(student, teacher):
    total, count = 0.0, 0
    for s, t in zip(student.flatten(), teacher.flatten(), strict=True):
        total, count = total + (s - t) * (s - t), count + 1
    return total / count


@pytest.mark.parametrize("size", [1, 2, 4])
def test_it_is_the_mean_over_all_entries(size):
    assert_agrees(logit_mse, literal, random(size, 3), random(size, 3, seed=1))


def test_limits():
    logits = random(3, 4)
    same = logit_mse(logits, logits.detach())
    assert same.item() == 0
    assert not torch.autograd.grad(same, logits)[0].any()
    huge = torch.full((2, 3), 1e4, requires_grad=True)
    loss = logit_mse(huge, -huge.detach())
    assert loss.item() == pytest.approx(4e8)
    assert torch.autograd.grad(loss, huge)[0].isfinite().all()
    with pytest.raises(ValueError, match="shapes differ"):
        logit_mse(random(2, 3), random(2, 4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_computes_in_fp32(dtype):
    student, teacher = ((300 * random(2, 3, seed=seed)).to(dtype) for seed in (0, 1))
    loss = logit_mse(student, teacher)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(logit_mse(student.double(), teacher.double()).item(), rel=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_hard_labels_get_what_they_are_given(alpha):
    setup = setup_of([], [[]])
    method, batch = Logits(Logits.Config(hard_weight=alpha), setup), batch_of(setup)
    (stage,) = method.stages()
    assert (stage.task_weight, stage.trains) == (alpha, ("student", "method"))
    terms = stage.loss(batch)
    assert list(terms) == ["mse"]
    torch.testing.assert_close(terms["mse"], (1 - alpha) * literal(batch.student.logits, batch.teachers[0].logits))


def test_the_classifier_learns_without_hard_labels():
    setup = setup_of([], [[], []])
    method, batch = Logits(Logits.Config(), setup), batch_of(setup, labels=torch.full((4,), -1))
    assert gradients(method, batch, method.loss) == {"logits"}
    mean = (batch.teachers[0].logits + batch.teachers[1].logits) / 2
    torch.testing.assert_close(method.loss(batch)["mse"], literal(batch.student.logits, mean))
