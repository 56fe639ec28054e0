from __future__ import annotations

import math

import pytest
import torch

from kdtool.losses import ensemble_logits, softened_kl
from kdtool_methods.dkd import DKD, decoupled_loss, decoupled_parts
from tests.methods.pairs import assert_agrees, batch_of, gradients, random, setup_of

ALPHA, BETA, T = 0.7, 3.0, 2.5


def literal(labels):
    def parts(logits, label):
        powers = [(value / T).exp() for value in logits]
        total = sum(powers)
        others = [power for k, power in enumerate(powers) if k != label]
        return powers[label] / total, sum(others) / total, [power / sum(others) for power in others]

    def loss(student, teacher):
        values = []
        for s, t, label in zip(student, teacher, labels.tolist(), strict=True):
            if label < 0:
                continue
            (p_s, not_s, q_s), (p_t, not_t, q_t) = parts(s, label), parts(t, label)
            tckd = p_t * (p_t / p_s).log() + not_t * (not_t / not_s).log()
            nckd = sum(a * (a / b).log() for a, b in zip(q_t, q_s, strict=True))
            values.append(T**2 * (ALPHA * tckd + BETA * nckd))
        return sum(values) / len(values)

    return loss


@pytest.mark.parametrize(
    "labels", [[0, 3, 2, 2], [1, 1], [-1, 4, 0, -1, 4]], ids=["classes missing", "batch of two", "no label on some"]
)
def test_it_is_the_paper_s_equation(labels):
    labels = torch.tensor(labels)
    student, teacher = random(len(labels), 5), random(len(labels), 5, seed=1)
    assert_agrees(lambda s, t: decoupled_loss(s, t, labels, ALPHA, BETA, T), literal(labels), student, teacher)


def test_two_classes_leave_only_the_target_part():
    labels = torch.tensor([0, 1, 1])
    student, teacher = random(3, 2), random(3, 2, seed=1)
    assert_agrees(lambda s, t: decoupled_loss(s, t, labels, ALPHA, BETA, T), literal(labels), student, teacher)
    target, others = decoupled_parts(student, teacher, labels, T)
    assert others.item() == 0
    assert target.item() == pytest.approx(softened_kl(student, teacher, T).item(), rel=1e-12)


def test_kd_is_the_sum_that_the_paper_derives():
    """KD = TCKD + (1 - teacher's target probability) · NCKD, here for one sample."""
    student, teacher, labels = random(1, 6), random(1, 6, seed=1), torch.tensor([2])
    target, others = decoupled_parts(student, teacher, labels, T)
    share = 1 - (teacher / T).softmax(1)[0, 2]
    torch.testing.assert_close(target + share * others, softened_kl(student, teacher, T))


def test_equal_logits_cost_nothing():
    logits = random(4, 5)
    assert decoupled_loss(logits, logits, torch.tensor([0, 1, 2, 3]), 1.0, 8.0, 4.0).item() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_huge_logits_stay_exact(dtype, classes):
    logits = torch.full((2, classes), -1e4)
    student, teacher = logits.clone(), logits.clone()
    student[0, 0], student[1, 1], teacher[:, 0] = 1e4, 1e4, 1e4
    labels = torch.tensor([0, 1])
    student = student.to(dtype).requires_grad_()
    loss = decoupled_loss(student, teacher.to(dtype), labels, 1.0, 0.0, 1.0)
    (grad,) = torch.autograd.grad(loss, student)
    # The second sample: the teacher is sure of class 0, the student of class 1, 2e4 (and a log count) apart.
    step = (student[1, 1] - student[1, 0]).item()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(step / 2, rel=1e-3)
    assert grad.isfinite().all()
    both = decoupled_loss(student, teacher.to(dtype), labels, 1.0, 8.0, 4.0)
    assert math.isfinite(both.item())
    assert both >= 0


def test_a_logit_far_below_the_mask_of_the_authors_code_still_counts():
    """Non-target logits 2,000 below the target's: a mask of -1000 would leave the target in."""
    student = torch.tensor([[2000.0, 1.0, 0.0]], dtype=torch.float64)
    teacher = torch.tensor([[2000.0, 0.0, 1.0]], dtype=torch.float64)
    _, others = decoupled_parts(student, teacher, torch.tensor([0]), 1.0)
    p = 1 / (1 + math.exp(-1))
    assert others.item() == pytest.approx(p - (1 - p), rel=1e-12)  # KL of (1-p, p) from (p, 1-p), a step of 1


def test_a_batch_without_labels_costs_nothing():
    student = random(3, 4)
    loss = decoupled_loss(student, random(3, 4, seed=1), torch.full((3,), -1), 1.0, 8.0, 4.0)
    assert loss.item() == 0
    assert torch.autograd.grad(loss, student)[0].abs().sum() == 0


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="two classes"):
        decoupled_loss(random(2, 1), random(2, 1), torch.tensor([0, 0]), 1.0, 1.0, 1.0)


def test_the_method_averages_teachers_and_ignores_samples_without_label():
    setup = setup_of([], [[], []])
    batch = batch_of(setup, labels=torch.tensor([1, -1, 0, 4]))
    method = DKD(DKD.Config(alpha=2.0, beta=3.0, temperature=T, warmup=0), setup)
    terms = method.loss(batch)
    teacher = ensemble_logits([out.logits for out in batch.teachers], temperature=T)
    want = decoupled_loss(batch.student.logits, teacher, batch.labels, 2.0, 3.0, T)
    assert list(terms) == ["target", "others"]
    torch.testing.assert_close(terms["target"] + terms["others"], want)
    assert gradients(method, batch, method.loss) == {"logits"}
    assert torch.autograd.grad(want, batch.student.logits)[0][1].abs().sum() == 0


def test_the_weights_warm_up():
    setup = setup_of([], [[]])
    batch = batch_of(setup)

    def rise(warmup, epoch, progress):
        batch.epoch, batch.progress = epoch, progress
        return DKD(DKD.Config(warmup=warmup), setup).rise(batch)

    assert [rise(4, epoch, 0.9) for epoch in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert rise(0, 0, 0.0) == 1.0
    assert [rise(None, 0, e / 240) for e in (0, 9, 19, 239)] == pytest.approx([0.05, 0.5, 1.0, 1.0])
