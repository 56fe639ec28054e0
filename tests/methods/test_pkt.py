from __future__ import annotations

import math

import pytest
import torch

from kdtool import Batch, Out, Setup
from kdtool_methods.pkt import PKT, probability_loss
from tests.methods.pairs import assert_agrees, random

FORMS = [(kernel, reduction) for kernel in ("cosine", "gaussian") for reduction in ("sum", "mean")]


def literal(kernel, reduction, width=None, eps=1e-7):
    def similarity(x, i, j, sigma):
        if kernel == "cosine":
            return ((x[i] * x[j]).sum() / (x[i].norm() * x[j].norm()) + 1) / 2
        return torch.exp(-((x[i] - x[j]) ** 2).sum() / sigma)

    def probabilities(x):
        size = len(x)
        sigma = width
        if width is None:
            sigma = sum(((x[i] - x[j]) ** 2).sum().item() for i in range(size) for j in range(size)) / size**2
        pairs = [(i, j) for i in range(size) for j in range(size) if reduction == "mean" or i != j]
        value = {(i, j): similarity(x, i, j, sigma) for i, j in pairs}
        row = [sum(v for (n, _), v in value.items() if n == i) for i in range(size)]
        return {(i, j): v / row[i] for (i, j), v in value.items()}

    def loss(student, teacher):
        q, p = probabilities(student), probabilities(teacher)
        total = sum(p[pair] * torch.log((p[pair] + eps) / (q[pair] + eps)) for pair in p)
        return total if reduction == "sum" else total / len(student) ** 2

    return loss


@pytest.mark.parametrize(("kernel", "reduction"), FORMS)
@pytest.mark.parametrize("size", [2, 5])
def test_it_is_the_equation(kernel, reduction, size):
    fast = lambda s, t: probability_loss(s, t, kernel, reduction)  # noqa: E731
    assert_agrees(fast, literal(kernel, reduction), random(size, 3), random(size, 6, seed=1))


def test_a_given_width():
    fast = lambda s, t: probability_loss(s, t, "gaussian", width=2.0, eps=1e-3)  # noqa: E731
    assert_agrees(fast, literal("gaussian", "sum", 2.0, 1e-3), random(4, 3), random(4, 6, seed=1))


@pytest.mark.parametrize(("kernel", "reduction"), FORMS)
def test_equal_relations_cost_nothing(kernel, reduction):
    feat = random(6, 4)
    loss = probability_loss(feat, feat.detach(), kernel, reduction)
    assert loss.item() == 0
    assert torch.autograd.grad(loss, feat)[0].abs().max() < 1e-6
    rotation = torch.linalg.qr(random(4, 4, seed=2).detach())[0]
    assert abs(probability_loss(3 * feat @ rotation, feat, kernel, reduction).item()) < 1e-12
    assert probability_loss(random(6, 3, seed=3), feat, kernel, reduction).item() > 1e-4


@pytest.mark.parametrize(("kernel", "reduction"), FORMS)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_limits_stay_finite(kernel, reduction, size):
    opposite = torch.ones(size, 3)
    opposite[0] = -1
    for student in (torch.zeros(size, 3), torch.ones(size, 3), opposite, 1e4 * torch.ones(size, 3)):
        student.requires_grad_()
        loss = probability_loss(student, random(size, 5, seed=1).float(), kernel, reduction)
        (grad,) = torch.autograd.grad(loss, student)
        assert math.isfinite(loss.item())
        assert grad.isfinite().all()
        assert grad.abs().max() < 100


def test_half_precision_and_autocast_compute_in_fp32():
    student, teacher = random(8, 16).detach().bfloat16(), random(8, 32, seed=1).detach().bfloat16()
    for form in FORMS:
        want = probability_loss(student.double(), teacher.double(), *form)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = probability_loss(student, teacher, *form)
        assert got.dtype == torch.float32
        assert got.item() == pytest.approx(want.item(), rel=1e-4)


def test_wrong_arguments_are_refused():
    for arguments in ({"kernel": "linear"}, {"reduction": "max"}):
        with pytest.raises(ValueError, match="valid are"):
            probability_loss(random(3, 2), random(3, 2), **arguments)
    with pytest.raises(ValueError, match="batches differ"):
        probability_loss(random(3, 2), random(4, 2))


def build(teachers=1, size=6, **options):
    setup = Setup({"embedding": (4,)}, [{"embedding": (3 + n,)} for n in range(teachers)], 5, 100, size)
    outs = [Out(random(size, 5, seed=n), {"embedding": random(size, 3 + n, seed=n).detach()}) for n in range(teachers)]
    student = Out(random(size, 5, seed=8), {"embedding": random(size, 4, seed=9)})
    batch = Batch(torch.zeros(size, dtype=torch.int64), torch.arange(size), student, outs, lambda logits: logits.sum())
    return PKT(PKT.Config(**options), setup), batch


def test_the_method_sums_over_teachers():
    method, batch = build(teachers=2, weight=3.0, kernel="gaussian", width=2.0, reduction="mean", eps=1e-5)
    student = batch.student.taps["embedding"]
    want = sum(
        probability_loss(student, out.taps["embedding"], "gaussian", "mean", width=2.0, eps=1e-5)
        for out in batch.teachers
    )
    terms = method.loss(batch)
    assert list(terms) == ["divergence"]
    torch.testing.assert_close(terms["divergence"], 3 * want)


def test_the_default_weight_is_the_common_one_at_a_batch_of_64_and_fits_others():
    assert build(size=64, reduction="mean")[0].weight == pytest.approx(30_000)
    assert build(size=128, reduction="mean")[0].weight == pytest.approx(60_000)
    assert build(size=64, reduction="mean", kernel="gaussian")[0].weight == pytest.approx(3_000)
    terms = [
        method.loss(batch)["divergence"].item()
        for method, batch in (build(size=size, reduction=how) for size in (64, 256) for how in ("sum", "mean"))
    ]
    assert max(terms) / min(terms) < 1.2
