"""gkd, distillm, minillm and uld against literal float64 readings of their papers."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from kdtool_methods.distillm import DistiLLM, skew_kl, skew_reverse_kl
from kdtool_methods.gkd import GKD, generalized_jsd
from kdtool_methods.minillm import MiniLLM, reverse_kl
from kdtool_methods.uld import ULD, sorted_probability_loss
from tests.methods.pairs import assert_agrees, batch_of, gradients, random, setup_of

SIZES = [(1, 2), (2, 3), (4, 7)]


def softened(row, temperature=1.0):
    powers = [(z / temperature).exp() for z in row]
    return [power / sum(powers) for power in powers]


def divergence(p, q):
    return sum(a * (a.log() - b.log()) for a, b in zip(p, q, strict=True))


def mean(student, teacher, of, temperature=1.0):
    """Return the mean over rows of a function of two rows' probabilities."""
    rows = zip(student, teacher, strict=True)
    return sum(of(softened(s, temperature), softened(t, temperature)) for s, t in rows) / len(student)


def jsd(beta, s, t):
    if beta == 0:
        return divergence(t, s)
    if beta == 1:
        return divergence(s, t)
    m = [(1 - beta) * a + beta * b for a, b in zip(s, t, strict=True)]
    return beta * divergence(t, m) + (1 - beta) * divergence(s, m)


@pytest.mark.parametrize(("size", "classes"), SIZES)
@pytest.mark.parametrize(("beta", "temperature"), [(0.0, 1.0), (0.1, 2.0), (0.5, 1.0), (0.9, 0.5), (1.0, 3.0)])
def test_gkd_is_the_generalised_divergence(size, classes, beta, temperature):
    assert_agrees(
        lambda s, t: generalized_jsd(s, t, beta, temperature),
        lambda s, t: mean(s, t, partial(jsd, beta), temperature),
        random(size, classes), random(size, classes, seed=1),
    )  # fmt: skip


def test_gkd_of_a_half_is_symmetric_and_bounded():
    s, t = 30 * random(5, 4), 30 * random(5, 4, seed=1)
    one, other = generalized_jsd(s, t, 0.5), generalized_jsd(t, s, 0.5)
    assert one.item() == pytest.approx(other.item(), rel=1e-12)
    assert 0 < one.item() <= torch.tensor(2.0).log().item()


@pytest.mark.parametrize("beta", [-0.1, 1.1])
def test_a_share_that_is_none_is_refused(beta):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        generalized_jsd(random(2, 3), random(2, 3), beta)


def skewed(alpha, s, t):
    return divergence(t, [alpha * b + (1 - alpha) * a for a, b in zip(s, t, strict=True)])


def skewed_back(alpha, s, t):
    return divergence(s, [(1 - alpha) * b + alpha * a for a, b in zip(s, t, strict=True)])


@pytest.mark.parametrize(("size", "classes"), SIZES)
@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.5])
def test_distillm_is_a_skewed_divergence(size, classes, alpha):
    given = random(size, classes), random(size, classes, seed=1)
    assert_agrees(lambda s, t: skew_kl(s, t, alpha), lambda s, t: mean(s, t, partial(skewed, alpha)), *given)
    assert_agrees(
        lambda s, t: skew_reverse_kl(s, t, alpha), lambda s, t: mean(s, t, partial(skewed_back, alpha)), *given
    )


def test_a_skewed_divergence_is_bounded_where_the_other_is_not():
    student = torch.tensor([[0.0, 500.0]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[500.0, 0.0]], dtype=torch.float64)
    assert skew_kl(student, teacher, 0.1).item() == pytest.approx(-torch.tensor(0.1).log().item(), rel=1e-6)
    assert skew_kl(student, teacher, 1.0).item() == 0
    assert skew_reverse_kl(student, teacher, 0.0).item() == pytest.approx(500, rel=1e-6)


@pytest.mark.parametrize(("size", "classes"), SIZES)
def test_minillm_is_the_reverse_divergence(size, classes):
    given = random(size, classes), random(size, classes, seed=1)
    assert_agrees(lambda s, t: reverse_kl(s, t, 2.0), lambda s, t: mean(s, t, divergence, 2.0), *given)
    torch.testing.assert_close(reverse_kl(*given), generalized_jsd(*given, beta=1.0))
    torch.testing.assert_close(reverse_kl(*given), skew_reverse_kl(*given, alpha=0.0))


def sorted_distance(student, teacher):
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        ours, theirs = (sorted(softened(row), key=float, reverse=True) for row in (s, t))
        for place in range(max(len(ours), len(theirs))):
            a = ours[place] if place < len(ours) else 0.0
            total = total + abs(a - (theirs[place] if place < len(theirs) else 0.0))
    return total / len(student)


@pytest.mark.parametrize(("ours", "theirs"), [(3, 3), (2, 6), (6, 2), (5, 4)])
def test_uld_compares_what_is_sorted(ours, theirs):
    assert_agrees(sorted_probability_loss, sorted_distance, random(4, ours), random(4, theirs, seed=1))


def test_uld_does_not_ask_which_token_it_is():
    logits = random(3, 6)
    assert sorted_probability_loss(logits, logits[:, [3, 1, 5, 0, 2, 4]]).item() == pytest.approx(0, abs=1e-15)
    one_hot = torch.tensor([[80.0, 0.0, 0.0]], dtype=torch.float64)
    assert sorted_probability_loss(one_hot, torch.zeros(1, 3, dtype=torch.float64)).item() == pytest.approx(4 / 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "loss", [reverse_kl, sorted_probability_loss, partial(generalized_jsd, beta=0.5), partial(skew_kl, alpha=0.1)]
)
def test_half_precision_is_computed_in_single(loss, dtype):
    student, teacher = random(3, 5).to(dtype).requires_grad_(), random(3, 5, seed=1).to(dtype)
    found = loss(student, teacher)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(loss(student.double(), teacher.double()).item(), rel=1e-5)
    assert torch.autograd.grad(found, student)[0].isfinite().all()
    assert loss(teacher, teacher).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("cls", [GKD, DistiLLM, MiniLLM, ULD])
def test_the_methods_weigh_their_loss(cls):
    setup = setup_of([], [[]])
    batch = batch_of(setup)
    one, two = (cls(cls.Config(weight=weight), setup) for weight in (1.0, 3.0))
    ((name, value),) = one.loss(batch).items()
    torch.testing.assert_close(two.loss(batch)[name], 3 * value)
    (stage,) = one.stages()
    assert stage.task_weight == (1.0 if cls is ULD else 0.0)
    assert gradients(one, batch, stage.loss) == {"logits"}


def test_distillm_goes_either_way():
    setup = setup_of([], [[]])
    batch = batch_of(setup)
    s, t = batch.student.logits, batch.teachers[0].logits
    for name, function in (("forward", skew_kl), ("reverse", skew_reverse_kl)):
        found = DistiLLM(DistiLLM.Config(divergence=name, alpha=0.3), setup).loss(batch)["skewed"]
        torch.testing.assert_close(found, function(s, t, 0.3))


LOSSES = [
    *(partial(generalized_jsd, beta=beta) for beta in (0.0, 0.5, 1.0)),
    *(partial(each, alpha=alpha) for each in (skew_kl, skew_reverse_kl) for alpha in (0.0, 0.1, 1.0)),
    reverse_kl,
    sorted_probability_loss,
]


@pytest.mark.parametrize("loss", LOSSES)
def test_classes_that_both_rule_out_change_nothing(loss):
    student, teacher = random(3, 4).requires_grad_(), random(3, 4, seed=1)
    barred = torch.full((3, 2), -torch.inf, dtype=torch.float64)
    found, plain = loss(torch.cat([student, barred], 1), torch.cat([teacher, barred], 1)), loss(student, teacher)
    torch.testing.assert_close(found, plain, rtol=1e-12, atol=0)
    one, other = (torch.autograd.grad(each, student, allow_unused=True)[0] for each in (found, plain))
    if other is not None:
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("loss", LOSSES)
def test_huge_logits_have_finite_values_and_gradients(loss, dtype):
    student = (1e4 * random(3, 5)).to(dtype).requires_grad_()
    teacher = (1e4 * random(3, 5, seed=1)).to(dtype)
    found = loss(student, teacher)
    assert found.isfinite()
    assert found >= 0
    gradient = torch.autograd.grad(found, student, allow_unused=True)[0]
    assert gradient is None or gradient.isfinite().all()


def test_what_the_teacher_alone_rules_out_costs_nothing_forwards_and_all_backwards():
    student, teacher = random(2, 3).requires_grad_(), random(2, 3, seed=1)
    teacher = teacher.detach().index_fill(1, torch.tensor([0]), -torch.inf)
    assert generalized_jsd(student, teacher, 0.0).isfinite()
    assert reverse_kl(student, teacher).isposinf()
    for found in (generalized_jsd(student, teacher, 0.5), skew_kl(student, teacher, 0.1)):
        assert torch.autograd.grad(found, student)[0].isfinite().all()
    assert skew_reverse_kl(student, teacher, 0.1).isfinite()
